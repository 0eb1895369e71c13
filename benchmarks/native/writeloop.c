/* writeloop: the least a broadcast can cost. It accepts streams, answers each with a header, and then sends every
 * event to every stream with one bare write(): no parsing, no buffers, no event loop.
 *
 *   writeloop PORT
 *
 * GET /publish?events=E&rate=R&size=S sends E events of S bytes of HTML, R a second (0: as fast as it can); any
 * other request opens a stream. A request must come right after the connection, as it does from sseload. The
 * bytes on the wire are those of a Datastar event from ds_broadcaster, chunked as an ASGI server chunks them.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_STREAMS = 100000, MAX_EVENT = 1 << 16 };
static int streams[MAX_STREAMS], open_streams;

static const char HEADER[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                             "Transfer-Encoding: chunked\r\n\r\n";

static long long nanoseconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(long long when) {
    struct timespec t = {.tv_sec = when / 1000000000LL, .tv_nsec = when % 1000000000LL};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0);
}

/* Encode event number `number` as one chunk; returns its length. */
static int encode(char *chunk, int number, int size) {
    static char event[MAX_EVENT + 256], html[MAX_EVENT];
    int used = snprintf(html, sizeof html, "<div id=\"bench\" data-ts=\"%lld\" data-n=\"%d\">", nanoseconds(CLOCK_REALTIME), number);
    for (; used < size - 6; used++) html[used] = 'x';
    strcpy(html + used, "</div>");
    int length = snprintf(event, sizeof event, "id: 0a1b2c3d-%d\nevent: datastar-patch-elements\ndata: elements %s\n\n",
                          number, html);
    return snprintf(chunk, sizeof event + 32, "%x\r\n%s\r\n", length, event);
}

static void publish(int events, double rate, int size) {
    static char chunk[MAX_EVENT + 512];
    long long start = nanoseconds(CLOCK_MONOTONIC);
    for (int i = 0; i < events; i++) {
        if (rate > 0) sleep_until(start + (long long)(i / rate * 1e9));
        int length = encode(chunk, i, size);
        for (int s = 0; s < open_streams;) {
            if (write(streams[s], chunk, length) == length) {
                s++;
            } else { /* the client is gone */
                close(streams[s]);
                streams[s] = streams[--open_streams];
            }
        }
    }
}

static void serve(int fd) {
    char request[4096] = "";
    int got = 0, one = 1, events, size;
    double rate;
    while (!strstr(request, "\r\n\r\n")) {
        int n = read(fd, request + got, sizeof request - 1 - got);
        if (n <= 0) {
            close(fd);
            return;
        }
        request[got += n] = 0;
    }
    if (sscanf(request, "GET /publish?events=%d&rate=%lf&size=%d", &events, &rate, &size) == 3) {
        if (size > MAX_EVENT - 64) exit(2);
        dprintf(fd, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        close(fd);
        publish(events, rate, size);
    } else if (open_streams < MAX_STREAMS) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        streams[open_streams++] = fd;
        if (write(fd, HEADER, sizeof HEADER - 1) < 0) exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) < 0 || listen(listener, 4096) < 0) {
        perror("writeloop");
        return 1;
    }
    for (;;) {
        int fd = accept(listener, 0, 0);
        if (fd < 0) return 1;
        serve(fd);
    }
}
