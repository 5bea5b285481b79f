/* A web server in one file, made to be the only file of its image. Answers every request with one line. */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static void fail(const char *act) {
    fprintf(stderr, "%s: %s\n", act, strerror(errno));
    exit(1);
}

/* As process 1 the default action of SIGTERM is nothing, so stopping is asked for by name. */
static void stop(int signal_number) {
    (void)signal_number;
    _exit(0);
}

static void answer(int client) {
    /* A client that says nothing may not keep the others waiting. */
    struct timeval limit = {.tv_sec = 2};
    if (setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0) return;
    /* The whole head: closing a socket with unread bytes in it would throw the answer away. */
    char request[8192];
    size_t length = 0;
    do {
        ssize_t more = recv(client, request + length, sizeof request - 1 - length, 0);
        if (more <= 0) return;
        length += (size_t)more;
        request[length] = '\0';
    } while (!strstr(request, "\r\n\r\n") && length < sizeof request - 1);

    int known = strncmp(request, "GET / ", 6) == 0 || strncmp(request, "GET /healthz ", 13) == 0;
    const char *body = known ? "hello from scratch\n" : "no such page\n";
    char reply[256];
    int size = snprintf(reply, sizeof reply,
                        "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                        known ? "200 OK" : "404 Not Found", strlen(body), body);
    if (send(client, reply, (size_t)size, MSG_NOSIGNAL) != size) fprintf(stderr, "send: %s\n", strerror(errno));
}

int main(void) {
    const char *text = getenv("PORT");
    int port = text ? atoi(text) : 8000;
    if (port < 0 || port > 65535 || (port == 0 && strcmp(text, "0") != 0)) {
        fprintf(stderr, "PORT is not a port: %s\n", text);
        return 1;
    }
    const char *host = getenv("HOST") ? getenv("HOST") : "0.0.0.0";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        fprintf(stderr, "HOST is not an address: %s\n", host);
        return 1;
    }
    if (signal(SIGTERM, stop) == SIG_ERR || signal(SIGINT, stop) == SIG_ERR) fail("signal");

    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server < 0) fail("socket");
    int on = 1;
    if (setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0) fail("setsockopt");
    if (bind(server, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
    if (listen(server, 16) < 0) fail("listen");
    /* Port 0 asks the kernel for a free one; say which it is. */
    socklen_t length = sizeof address;
    if (getsockname(server, (struct sockaddr *)&address, &length) < 0) fail("getsockname");
    printf("listening on %s:%d\n", host, ntohs(address.sin_port));
    fflush(stdout);

    for (;;) {
        int client = accept(server, NULL, NULL);
        if (client < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            fail("accept");
        }
        answer(client);
        close(client);
    }
}
