"""A token server as distribution's specification has it: HTTPS, Basic authentication, RS256.

Arguments: the certificate and key that it shows, the key and certificate that it signs with, service, user, password.
Prints its port. Signs with openssl. Anybody may pull, the user may push.
"""
import base64, http.server, json, ssl, subprocess, sys, time, urllib.parse

shown, shown_key, key, certificate, service, user, password = sys.argv[1:]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(access):
    pem = open(certificate).read().split("-----")[2]
    header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(pem.split())]}
    now = int(time.time())
    claims = {"iss": "tests", "sub": user, "aud": service, "exp": now + 300, "nbf": now - 60, "iat": now, "jti": "1", "access": access}
    text = b64(json.dumps(header).encode()) + "." + b64(json.dumps(claims).encode())
    signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=text.encode(), capture_output=True, check=True)
    return text + "." + b64(signed.stdout)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        given = self.headers.get("Authorization")
        known = given == "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        if given and not known:
            return self.answer(401, {"details": "incorrect username or password"})
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            granted = [a for a in actions.split(",") if known or a == "pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        self.answer(200, {"token": token(access), "expires_in": 300})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(shown, shown_key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
