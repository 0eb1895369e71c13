/* sseload: open many event streams, or WebSockets, on 127.0.0.1 from one process and time what arrives.
 *
 * It costs about 1 us an event, so that the server and not the client is what is measured; a Python client is
 * slower than the servers it would measure.
 *
 *   sseload --port P --path /stream --streams N [--stalled K] [--spread C] [--header LINE] [--page] [--trigger /publish?...]
 *           [--expect TOTAL] [--quiet SECONDS] [--timeout SECONDS] [--websocket]
 *
 * A "{n}" in the path becomes the number of the stream, modulo C if that is given. LINE is added to the request of each
 * stream. The bytes of the streams are counted as they are: compressed events are not seen. The last K streams are
 * opened and then never read; their buffers are those of a client on an Ethernet link, since loopback's megabytes would
 * hide that nobody reads. With --page the requests are those of a browser for a page.
 *
 * With --websocket each stream is a WebSocket (RFC 6455, no extensions): pings are answered, and what the frames of
 * the server carry is read like a stream.
 *
 * It talks to its parent in lines:
 *   stdout  {"phase": "open", ...}   all streams have answered with 200, all WebSockets with 101
 *   stdin   g                        request the trigger, if there is one, and start to measure
 *   stdout  {"phase": "done", ...}   TOTAL events have come, or none for --quiet seconds, or:
 *   stdin   e                        end the measurement
 *   stdin   (end of file)            close everything and leave
 *
 * An event is counted by its stamp, data-ts="<nanoseconds since 1970>"; data-n="<number>" may follow at once, and
 * the smallest last one of all streams is reported, and how often a stream got another one than the next, counted from
 * 0. At least NEED bytes must follow the start of a stamp.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { NEED = 64, READ_SIZE = 1 << 18, IN_FLIGHT = 64, STDIN = UINT32_MAX };
static const char STAMP[] = "data-ts=";
enum { STAMP_LEN = sizeof STAMP - 1 };

/* Where a WebSocket stands between two reads: within a header, or with so much of the payload to come. */
struct frame {
    unsigned char head[10], control[125];
    int got, control_got;
    unsigned long left;
};

struct stream {
    int fd, opened, closed, events, kept;
    long value, next; /* the last data-n, and the one that should follow */
    char tail[NEED + STAMP_LEN];
    struct frame frame;
};

static struct {
    int port, streams, stalled, spread, websocket, page;
    const char *path, *trigger, *header;
    long expect;
    double quiet, timeout;
} opt = {.path = "/stream", .streams = 1, .spread = INT_MAX, .quiet = 3, .timeout = 60};

static struct stream *streams;
static int epoll_fd, opened, closed;
static long events, skips, bytes, latency_room;
static float *latencies; /* milliseconds */
static double first_event, last_event;
static char buffer[NEED + STAMP_LEN + READ_SIZE + 1];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "sseload: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    exit(1);
}

static int is_stalled(int index) { return index >= opt.streams - opt.stalled; }

static int dial(int stalled) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(opt.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("cannot open socket %d: %s (see ulimit -n)", opened, strerror(errno));
    if (stalled) {
        int room = 4096, segment = 1460;
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    }
    struct linger reset = {.l_onoff = 1}; /* no TIME_WAIT: 10,000 ports are wanted again by the next run */
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (connect(fd, (void *)&address, sizeof address) < 0) fail("cannot connect: %s", strerror(errno));
    return fd;
}

static const char STREAM[] = "Accept: text/event-stream\r\nDatastar-Request: true\r\nConnection: keep-alive";
static const char PAGE[] = "Accept: text/html\r\nConnection: keep-alive";
static const char TRIGGER[] = "Connection: close";
/* The key of the RFC's own example, and what a server answers to it. */
static const char HANDSHAKE[] = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
static const char ACCEPTED[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

static void request(int fd, const char *path, int index, const char *headers, const char *more) {
    char target[1024], message[4096];
    const char *slot = strstr(path, "{n}");
    if (slot)
        snprintf(target, sizeof target, "%.*s%d%s", (int)(slot - path), path, index, slot + 3);
    else
        snprintf(target, sizeof target, "%s", path);
    int length = snprintf(message, sizeof message, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%s%s\r\n\r\n", target,
                          opt.port, headers, more ? "\r\n" : "", more ? more : "");
    if (write(fd, message, length) != length) fail("cannot send a request: %s", strerror(errno));
}

static void open_stream(int index) {
    struct stream *stream = &streams[index];
    stream->fd = dial(is_stalled(index));
    request(stream->fd, opt.path, index % opt.spread, opt.websocket ? HANDSHAKE : opt.page ? PAGE : STREAM, opt.header);
    fcntl(stream->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event interest = {.events = EPOLLIN, .data.u32 = index};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, stream->fd, &interest);
}

static void count_event(struct stream *stream, const char *stamp, double at) {
    char *end;
    const char *digits = stamp + STAMP_LEN;
    while (*digits < '0' || *digits > '9') digits++; /* the quote, which JSON escapes */
    double sent = strtoll(digits, &end, 10) * 1e-9;
    if (events == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 1 << 20;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
    }
    latencies[events++] = (at - sent) * 1e3;
    stream->events++;
    while (*end == '"' || *end == '\\' || *end == ' ') end++;
    if (!memcmp(end, "data-n=\"", 8)) {
        stream->value = atol(end + 8);
        skips += stream->value != stream->next;
        stream->next = stream->value + 1;
    }
    if (!first_event) first_event = at;
    last_event = at;
}

static int header_length(const struct frame *frame) {
    int length = frame->got < 2 ? 0 : frame->head[1] & 127;
    return length == 127 ? 10 : length == 126 ? 4 : 2;
}

static unsigned long payload_length(const struct frame *frame) {
    unsigned long length = frame->head[1];
    if (length > 127) fail("the server masks its frames");
    if (frame->got == 2) return length;
    length = 0;
    for (int i = 2; i < frame->got; i++) length = length << 8 | frame->head[i];
    return length;
}

static void drop(struct stream *stream) {
    close(stream->fd);
    stream->closed = 1;
    closed++;
}

static void end_frame(struct stream *stream) {
    struct frame *frame = &stream->frame;
    int opcode = frame->head[0] & 15, size = frame->control_got;
    if (opcode == 8) drop(stream);
    if (opcode == 9) { /* a pong, under a mask of zeros */
        unsigned char pong[6 + sizeof frame->control] = {0x8a, 0x80 | size};
        memcpy(pong + 6, frame->control, size);
        if (write(stream->fd, pong, 6 + size) != 6 + size) fail("cannot send a pong: %s", strerror(errno));
    }
    frame->got = frame->control_got = 0;
}

/* Move what the frames carry together at the start of these bytes; return where it ends. */
static char *unframe(struct stream *stream, char *from, char *end) {
    struct frame *frame = &stream->frame;
    char *to = from;
    while (from < end && !stream->closed) {
        if (frame->got < header_length(frame)) {
            frame->head[frame->got++] = *from++;
            if (frame->got < header_length(frame)) continue;
            frame->left = payload_length(frame);
        }
        unsigned long part = end - from < (long)frame->left ? (unsigned long)(end - from) : frame->left;
        if (!(frame->head[0] & 8)) {
            memmove(to, from, part);
            to += part;
        } else {
            if (frame->control_got + part > sizeof frame->control) fail("a control frame is too long");
            memcpy(frame->control + frame->control_got, from, part);
            frame->control_got += part;
        }
        from += part;
        frame->left -= part;
        if (!frame->left) end_frame(stream);
    }
    return to;
}

/* Look at the answer to a request; return where the body begins. */
static char *open_answer(int index, char *start, ssize_t got) {
    start[got] = 0;
    if (strncmp(start, opt.websocket ? "HTTP/1.1 101" : "HTTP/1.1 200", 12))
        fail("stream %d got: %.*s", index, (int)strcspn(start, "\r\n"), start);
    streams[index].opened = 1;
    opened++;
    if (is_stalled(index)) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, streams[index].fd, 0);
    if (!opt.websocket) return start;
    char *body = strstr(start, "\r\n\r\n");
    if (!body || !strstr(start, ACCEPTED)) fail("stream %d got no WebSocket handshake", index);
    return body + 4;
}

static void read_stream(int index) {
    struct stream *stream = &streams[index];
    char *start = buffer + sizeof stream->tail - stream->kept;
    ssize_t got = read(stream->fd, buffer + sizeof stream->tail, READ_SIZE);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        if (!stream->opened) fail("stream %d was closed before it answered", index);
        drop(stream);
        return;
    }
    double at = now();
    bytes += got;
    memcpy(start, stream->tail, stream->kept);
    char *at_byte = start, *end = buffer + sizeof stream->tail + got;
    char *fresh = buffer + sizeof stream->tail;
    if (!stream->opened) at_byte = start = fresh = open_answer(index, start, got);
    if (opt.websocket) end = unframe(stream, fresh, end);
    char *stamp;
    while ((stamp = memmem(at_byte, end - at_byte, STAMP, STAMP_LEN)) && end - stamp >= NEED) {
        count_event(stream, stamp, at);
        at_byte = stamp + STAMP_LEN;
    }
    /* keep an unfinished stamp, or what may be the start of one */
    char *keep = stamp ? stamp : end - (STAMP_LEN - 1) > at_byte ? end - (STAMP_LEN - 1) : at_byte;
    stream->kept = end - keep;
    memcpy(stream->tail, keep, stream->kept);
}

static int by_value(const void *a, const void *b) {
    float x = *(float *)a, y = *(float *)b;
    return (x > y) - (x < y);
}

static double quantile(double q) { return events ? latencies[(long)((events - 1) * q)] : 0; }

static void report(double triggered) {
    long least = LONG_MAX, most = 0, value = LONG_MAX;
    for (int i = 0; i < opt.streams - opt.stalled; i++) {
        if (streams[i].events < least) least = streams[i].events;
        if (streams[i].events > most) most = streams[i].events;
        if (streams[i].value < value) value = streams[i].value;
    }
    qsort(latencies, events, sizeof *latencies, by_value);
    printf("{\"phase\": \"done\", \"events\": %ld, \"least\": %ld, \"most\": %ld, \"value\": %ld, \"skips\": %ld, "
           "\"closed\": %d, \"bytes\": %ld, "
           "\"seconds\": %.6f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f}\n",
           events, least, most, value, skips, closed, bytes, events ? last_event - triggered : 0, quantile(.5), quantile(.99),
           quantile(1));
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {{"port", 1, 0, 'p'},    {"path", 1, 0, 'u'},    {"streams", 1, 0, 'n'},
                                          {"stalled", 1, 0, 's'}, {"trigger", 1, 0, 't'}, {"expect", 1, 0, 'e'},
                                          {"quiet", 1, 0, 'q'},   {"timeout", 1, 0, 'o'}, {"websocket", 0, 0, 'w'},
                                          {"spread", 1, 0, 'c'},  {"header", 1, 0, 'h'},  {"page", 0, 0, 'g'},
                                          {0}};
    for (int c; (c = getopt_long(argc, argv, "", names, 0)) != -1;) switch (c) {
        case 'p': opt.port = atoi(optarg); break;
        case 'u': opt.path = optarg; break;
        case 'n': opt.streams = atoi(optarg); break;
        case 's': opt.stalled = atoi(optarg); break;
        case 't': opt.trigger = optarg; break;
        case 'e': opt.expect = atol(optarg); break;
        case 'q': opt.quiet = atof(optarg); break;
        case 'o': opt.timeout = atof(optarg); break;
        case 'w': opt.websocket = 1; break;
        case 'c': opt.spread = atoi(optarg); break;
        case 'h': opt.header = optarg; break;
        case 'g': opt.page = 1; break;
        default: exit(2);
        }
    if (!opt.port) fail("--port is missing");
}

int main(int argc, char **argv) {
    parse(argc, argv);
    setvbuf(stdout, 0, _IOLBF, 0);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    streams = calloc(opt.streams, sizeof *streams);
    struct epoll_event ready[1024], interest = {.events = EPOLLIN, .data.u32 = STDIN};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &interest);
    enum { OPENING, OPEN, MEASURING, DONE } phase = OPENING;
    double started = now(), triggered = 0;
    int is_over = 0;
    for (int next = 0;;) {
        while (next < opt.streams && next - opened < IN_FLIGHT) open_stream(next++);
        if (phase == OPENING && opened == opt.streams) {
            phase = OPEN;
            printf("{\"phase\": \"open\", \"seconds\": %.4f}\n", now() - started);
        }
        int count = epoll_wait(epoll_fd, ready, 1024, 20);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.u32 != STDIN) {
                read_stream(ready[i].data.u32);
                continue;
            }
            char command;
            if (read(0, &command, 1) <= 0) return 0;
            is_over = command == 'e';
            if (command != 'g' || phase != OPEN) continue;
            phase = MEASURING;
            triggered = now();
            bytes = 0;
            if (opt.trigger) request(dial(0), opt.trigger, 0, TRIGGER, 0);
        }
        double seen = last_event > triggered ? last_event : triggered;
        int is_complete = opt.expect && events >= opt.expect;
        if (phase == MEASURING && (is_complete || is_over || now() - seen > opt.quiet)) {
            phase = DONE;
            report(triggered);
        }
        if (phase != DONE && now() - started > opt.timeout)
            fail("no end after %.0f s: %d of %d streams open, %ld events", opt.timeout, opened, opt.streams, events);
    }
}
