/* sseherd: hold many event streams at several workers, return to another one when a stream breaks, and check that each
 * stream gets every event once and in order.
 *
 *   sseherd --ports P,P,... --path "/stream?channel={c}" --streams N [--first F] [--channels C] [--source 127.0.0.2]
 *           [--in-flight M]
 *
 * Of all the streams of all herds, this one holds the numbers F to F + N - 1. With W ports, stream G begins at port
 * G % W, and {c} in its path is G / W % C: each worker has the same share of each channel. A stream that breaks waits
 * for the interval of the server's last `retry:` line and returns with its Last-Event-ID; as from a load balancer, the
 * streams of one worker go to all others. Where it is refused with 503 or finds no listener it asks the next port at
 * once, and no other stream of this herd asks the former for a second; with no port left, it waits for its interval
 * again. A 200 without a stream after it is a refusal too. At most M requests (16) are unanswered at a time.
 *
 * Events are numbered by data-n="<number>", from 0 on in each channel; their data-ts="<nanoseconds since 1970>" is when
 * the round of that number began.
 *
 * It talks to its parent in lines, an answer of one JSON object for each command:
 *   status     {"open": ..., ...}: the streams that are open, and what has happened so far
 *   count N    {"streams": ...}: how many streams have had the event of this number
 *   round N    {"streams": ..., "histogram": [[ms, streams], ...]}: and how long after its round began
 *   (end of file)   close everything and leave
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_SIZE = 1 << 18,
    MOST_PORTS = 64,
    MOST_ROUNDS = 1000,
    BUCKETS = 6000, /* of a millisecond up to a second, then of ten */
    FINE = 1000,
    COARSE_MS = 10,
    CLOSED_FOR = 1, /* seconds */
    ID_SIZE = 48,
    TICK_MS = 10,
    COMMANDS = UINT32_MAX
};

enum state { WAITING, CONNECTING, ASKED, OPEN };

struct stream {
    int fd, next, kept_size; /* `next` is the number of the event that should follow */
    unsigned char state, port, has_begun; /* with the first bytes of the body */
    unsigned short retry;
    double due;
    char *kept; /* an unfinished event, or an unfinished answer */
    char id[ID_SIZE];
};

struct round {
    int streams;
    unsigned *histogram;
};

static struct {
    int ports[MOST_PORTS], workers, streams, first, channels, in_flight;
    const char *path;
    struct in_addr source;
} opt = {.channels = 1, .in_flight = 16};

static struct stream *streams;
static struct round rounds[MOST_ROUNDS];
static int *waiting, waiting_count, in_flight, open_count, epoll_fd;
static long opened, lost, refused, broken_off, unreachable, events, missed, repeated;
static double closed_until[MOST_PORTS];
static char buffer[READ_SIZE];

static double clock_of(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "sseherd: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    exit(1);
}

/* When */

static void wait_for_turn(struct stream *stream, double seconds) {
    stream->state = WAITING;
    stream->due = clock_of(CLOCK_MONOTONIC) + seconds;
    waiting[waiting_count++] = stream - streams;
}

static void let_go(struct stream *stream) {
    close(stream->fd);
    free(stream->kept);
    stream->kept = 0;
    stream->kept_size = 0;
    if (stream->state == OPEN)
        open_count--;
    else
        in_flight--;
}

static void return_elsewhere(struct stream *stream) {
    int others = opt.workers - 1, index = opt.first + (stream - streams);
    lost++;
    let_go(stream);
    stream->port = (stream->port + 1 + (others ? index / opt.workers % others : 0)) % opt.workers;
    wait_for_turn(stream, stream->retry / 1e3);
}

static void try_next(struct stream *stream, long *reason) {
    ++*reason;
    let_go(stream);
    closed_until[stream->port] = clock_of(CLOCK_MONOTONIC) + CLOSED_FOR;
    wait_for_turn(stream, 0);
}

static int find_port(struct stream *stream, double now) {
    for (int i = 0; i < opt.workers; i++, stream->port = (stream->port + 1) % opt.workers)
        if (closed_until[stream->port] <= now) return 1;
    return 0;
}

static void dial(struct stream *stream) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = opt.source};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(opt.ports[stream->port])};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int yes = 1;
    stream->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (stream->fd < 0) fail("cannot open socket %d: %s (see ulimit -n)", open_count, strerror(errno));
    setsockopt(stream->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (bind(stream->fd, (void *)&from, sizeof from) < 0) fail("cannot use the source address: %s", strerror(errno));
    struct linger reset = {.l_onoff = 1}; /* no TIME_WAIT: the ports are wanted again by the next run */
    setsockopt(stream->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    stream->state = CONNECTING;
    in_flight++;
    if (connect(stream->fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        if (errno != ECONNREFUSED) fail("cannot connect: %s", strerror(errno));
        try_next(stream, &unreachable);
        return;
    }
    struct epoll_event interest = {.events = EPOLLOUT, .data.u32 = stream - streams};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, stream->fd, &interest);
}

static void ask(struct stream *stream) {
    char message[1024], last[ID_SIZE + 20] = "";
    int error = 0, global = opt.first + (stream - streams);
    socklen_t size = sizeof error;
    getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        if (error != ECONNREFUSED && error != ECONNRESET) fail("cannot connect: %s", strerror(error));
        try_next(stream, &unreachable);
        return;
    }
    const char *slot = strstr(opt.path, "{c}");
    if (*stream->id) snprintf(last, sizeof last, "Last-Event-ID: %s\r\n", stream->id);
    int length = snprintf(message, sizeof message,
                          "GET %.*s%d%s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
                          "Datastar-Request: true\r\n%s\r\n",
                          (int)(slot - opt.path), opt.path, global / opt.workers % opt.channels, slot + 3, last);
    if (write(stream->fd, message, length) != length) {
        try_next(stream, &unreachable);
        return;
    }
    stream->state = ASKED;
    struct epoll_event interest = {.events = EPOLLIN, .data.u32 = stream - streams};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, stream->fd, &interest);
}

static void dial_those_due(void) {
    double now = clock_of(CLOCK_MONOTONIC);
    for (int i = 0; i < waiting_count && in_flight < opt.in_flight;) {
        struct stream *stream = &streams[waiting[i]];
        if (stream->due <= now && !find_port(stream, now)) stream->due = now + stream->retry / 1e3;
        if (stream->due > now) {
            i++;
            continue;
        }
        waiting[i] = waiting[--waiting_count];
        dial(stream);
    }
}

/* What comes */

static void count_event(struct stream *stream, int number, double since, double now) {
    if (number < 0 || number >= MOST_ROUNDS) fail("an event has the number %d", number);
    events++;
    if (number < stream->next) {
        repeated++;
        return;
    }
    missed += number - stream->next;
    stream->next = number + 1;
    struct round *round = &rounds[number];
    if (!round->histogram) round->histogram = calloc(BUCKETS, sizeof *round->histogram);
    int ms = now > since ? (now - since) * 1e3 : 0;
    int bucket = ms < FINE ? ms : FINE + (ms - FINE) / COARSE_MS;
    round->histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    round->streams++;
}

static long number_after(const char *name, const char *line, const char *end, long otherwise) {
    const char *found = memmem(line, end - line, name, strlen(name));
    return found ? strtol(found + strlen(name), 0, 10) : otherwise;
}

/* One event, between blank lines; before it may be the size of an HTTP chunk. */
static void read_event(struct stream *stream, const char *at, const char *end, double now) {
    while (at < end) {
        const char *stop = memchr(at, '\n', end - at);
        if (!stop) stop = end;
        if (stop - at > 4 && !memcmp(at, "id: ", 4)) {
            if (stop - at - 4 >= ID_SIZE) fail("an id is longer than %d bytes", ID_SIZE);
            memcpy(stream->id, at + 4, stop - at - 4);
            stream->id[stop - at - 4] = 0;
        } else if (stop - at > 7 && !memcmp(at, "retry: ", 7)) {
            stream->retry = number_after("retry: ", at, stop, 0);
        } else if (stop - at > 6 && !memcmp(at, "data: ", 6)) {
            long number = number_after("data-n=\"", at, stop, -1);
            if (number >= 0) count_event(stream, number, number_after("data-ts=\"", at, stop, 0) * 1e-9, now);
        }
        at = stop + 1;
    }
}

/* Read the head of an answer, if it is all here; return where the body begins, 0 where there is none. */
static char *read_head(struct stream *stream, char *start, char *end) {
    char *body = memmem(start, end - start, "\r\n\r\n", 4);
    if (!body) return start;
    if (!strncmp(start, "HTTP/1.1 200", 12)) {
        stream->state = OPEN;
        stream->has_begun = 0;
        in_flight--;
        open_count++;
        opened++;
        return body + 4;
    }
    if (strncmp(start, "HTTP/1.1 503", 12)) fail("a stream got: %.*s", (int)strcspn(start, "\r\n"), start);
    try_next(stream, &refused);
    return 0;
}

static void read_stream(struct stream *stream) {
    if (stream->kept_size) memcpy(buffer, stream->kept, stream->kept_size);
    char *fresh = buffer + stream->kept_size;
    ssize_t got = read(stream->fd, fresh, sizeof buffer - 1 - stream->kept_size);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        if (stream->state != OPEN)
            try_next(stream, &unreachable);
        else if (stream->has_begun)
            return_elsewhere(stream);
        else
            try_next(stream, &broken_off);
        return;
    }
    double now = clock_of(CLOCK_REALTIME);
    char *at = buffer, *end = fresh + got, *blank;
    *end = 0;
    if (stream->state == ASKED && !(at = read_head(stream, at, end))) return;
    if (stream->state == OPEN && at < end) {
        stream->has_begun = 1;
        char *from = at < fresh - 1 ? fresh - 1 : at; /* a blank line may have begun before */
        while ((blank = memmem(from, end - from, "\n\n", 2))) {
            read_event(stream, at, blank, now);
            from = at = blank + 2;
        }
        if (end - at == 2 && !memcmp(at, "\r\n", 2)) at = end; /* of an HTTP chunk */
    }
    int left = end - at;
    if (left > READ_SIZE / 2) fail("an event is longer than %d bytes", READ_SIZE / 2);
    if (left != stream->kept_size) stream->kept = left ? realloc(stream->kept, left) : (free(stream->kept), NULL);
    stream->kept_size = left;
    if (left) memcpy(stream->kept, at, left);
}

/* Commands */

static void say_status(void) {
    printf("{\"open\": %d, \"waiting\": %d, \"asking\": %d, \"opened\": %ld, \"lost\": %ld, \"refused\": %ld, "
           "\"broken_off\": %ld, \"unreachable\": %ld, \"events\": %ld, \"missed\": %ld, \"repeated\": %ld}\n",
           open_count, waiting_count, in_flight, opened, lost, refused, broken_off, unreachable, events, missed, repeated);
}

static struct round *round_of(const char *number) {
    static struct round none;
    int index = atoi(number);
    return index >= 0 && index < MOST_ROUNDS ? &rounds[index] : &none;
}

static void say_round(struct round *round) {
    printf("{\"streams\": %d, \"histogram\": [", round->streams);
    const char *comma = "";
    for (int i = 0; i < BUCKETS && round->histogram; i++)
        if (round->histogram[i]) {
            printf("%s[%d, %u]", comma, i < FINE ? i : FINE + (i - FINE) * COARSE_MS, round->histogram[i]);
            comma = ", ";
        }
    printf("]}\n");
}

static void obey(void) {
    char line[64];
    int size = 0;
    do {
        if (read(0, &line[size], 1) <= 0) exit(0);
    } while (line[size++] != '\n' && size < (int)sizeof line);
    if (!strncmp(line, "round ", 6))
        say_round(round_of(line + 6));
    else if (!strncmp(line, "count ", 6))
        printf("{\"streams\": %d}\n", round_of(line + 6)->streams);
    else
        say_status();
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {{"ports", 1, 0, 'p'},    {"path", 1, 0, 'u'},   {"streams", 1, 0, 'n'},
                                          {"first", 1, 0, 'f'},    {"channels", 1, 0, 'c'}, {"source", 1, 0, 's'},
                                          {"in-flight", 1, 0, 'm'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", names, 0)) != -1;) switch (c) {
        case 'p':
            for (char *port = strtok(optarg, ","); port && opt.workers < MOST_PORTS; port = strtok(0, ","))
                opt.ports[opt.workers++] = atoi(port);
            break;
        case 'u': opt.path = optarg; break;
        case 'n': opt.streams = atoi(optarg); break;
        case 'f': opt.first = atoi(optarg); break;
        case 'c': opt.channels = atoi(optarg); break;
        case 's': inet_aton(optarg, &opt.source); break;
        case 'm': opt.in_flight = atoi(optarg); break;
        default: exit(2);
        }
    if (!opt.workers || !opt.path || !strstr(opt.path, "{c}")) fail("--ports and a --path with {c} are needed");
    if (!opt.source.s_addr) opt.source.s_addr = htonl(INADDR_LOOPBACK);
}

int main(int argc, char **argv) {
    parse(argc, argv);
    setvbuf(stdout, 0, _IOLBF, 0);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    streams = calloc(opt.streams, sizeof *streams);
    waiting = calloc(opt.streams, sizeof *waiting);
    for (int i = 0; i < opt.streams; i++) {
        streams[i].port = (opt.first + i) % opt.workers;
        streams[i].retry = 1000;
        wait_for_turn(&streams[i], 0);
    }
    struct epoll_event ready[1024], interest = {.events = EPOLLIN, .data.u32 = COMMANDS};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &interest);
    for (;;) {
        if (waiting_count) dial_those_due();
        int count = epoll_wait(epoll_fd, ready, 1024, waiting_count ? TICK_MS : -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.u32 == COMMANDS) {
                obey();
                continue;
            }
            struct stream *stream = &streams[ready[i].data.u32];
            if (stream->state == CONNECTING)
                ask(stream);
            else if (stream->state != WAITING)
                read_stream(stream);
        }
    }
}
