"""A port in front of a socket: docker over the network.

Arguments: the socket; and for TLS the certificate and key that it shows, and the certificate of whoever vouches for its
clients, who must show one then. Prints its port.
"""
import select, socket, ssl, sys, threading

path, *pems = sys.argv[1:]
context = None
if pems:
    shown, shown_key, clients = pems
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, shown_key)
    context.load_verify_locations(clients)
    context.verify_mode = ssl.CERT_REQUIRED


def shake_hands(near):
    """TLS over the connection. Who is refused is heard to the end, so that the alert arrives before the connection goes."""
    near = context.wrap_socket(near, server_side=True, do_handshake_on_connect=False)
    try:
        near.do_handshake()
        return near
    except ssl.SSLError:
        near.shutdown(socket.SHUT_WR)
        while near.recv(1 << 16):
            pass
        raise


def serve(near):
    with near:
        try:
            if context:
                near = shake_hands(near)
            with near, socket.socket(socket.AF_UNIX) as far:
                far.connect(path)
                other = {near: far, far: near}
                while True:
                    # What TLS has read already is nothing that a socket tells of.
                    ready = [near] if context and near.pending() else select.select([near, far], [], [])[0]
                    for end in ready:
                        data = end.recv(1 << 16)
                        if not data:
                            return
                        other[end].sendall(data)
        except OSError as error:
            print(error, file=sys.stderr)


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
