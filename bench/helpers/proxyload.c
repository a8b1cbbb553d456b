// Many connections through a SOCKS5 proxy, and the server behind it. One thread, epoll.
//   proxyload serve PORT
//   proxyload users PROXY_IP PROXY_PORT TARGET_IP TARGET_PORT COUNT BYTES
//       COUNT users at once, each with a connection that fetches BYTES and one that idles. Prints one line of JSON when all
//       have fetched theirs or failed, then holds the idle ones until its standard input ends, and tells how many lived.
//   proxyload short PROXY_IP PROXY_PORT TARGET_IP TARGET_PORT COUNT AT_A_TIME
//       COUNT connections, each for 64 bytes, AT_A_TIME at once.
// A client sends 8 bytes, big-endian: how many bytes it wants. The byte at place p is p % 251.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#define PERIOD 251
#define CHUNK (PERIOD * 256)
#define SILENCE_S 60
enum state { FREE, CONNECTING, GREETING, REPLY, FETCHING, IDLE, WANT, SENDING };
struct conn { int fd; enum state state; int idle_one; uint32_t user; uint64_t want, done; double began; unsigned char in[16]; int have; };
static unsigned char pattern[CHUNK + PERIOD], buf[CHUNK];
static int ep;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static void die(const char *what) { perror(what); exit(1); }
static void watch(int op, int fd, uint32_t events, uint32_t index) {
    struct epoll_event e = { .events = events, .data.u32 = index };
    if (epoll_ctl(ep, op, fd, &e) < 0) die("epoll_ctl");
}
static struct sockaddr_in address(const char *ip, int port) {
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
    if (inet_pton(AF_INET, ip, &a.sin_addr) != 1) { fprintf(stderr, "no address: %s\n", ip); exit(2); }
    return a;
}

// ---- the server: connections are in slots by descriptor
static void serve(int port) {
    static struct conn conns[65536];
    int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = address("0.0.0.0", port);
    if (bind(l, (void *)&a, sizeof a) < 0 || listen(l, 4096) < 0) die("listen");
    watch(EPOLL_CTL_ADD, l, EPOLLIN, l);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(ep, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.u32;
            if (fd == l) {
                while ((fd = accept4(l, 0, 0, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= 65536) { close(fd); continue; }
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    conns[fd] = (struct conn){ .fd = fd, .state = WANT };
                    watch(EPOLL_CTL_ADD, fd, EPOLLIN, fd);
                }
                continue;
            }
            struct conn *c = &conns[fd];
            if (c->state == WANT) {
                ssize_t r = read(fd, c->in + c->have, 8 - c->have);
                if (r < 0 && errno == EAGAIN) continue;
                if (r <= 0) { close(fd); c->state = FREE; continue; }
                if ((c->have += r) < 8) continue;
                uint64_t want; memcpy(&want, c->in, 8);
                c->want = be64toh(want); c->done = 0; c->have = 0;
                if (!c->want) continue;
                c->state = SENDING;
                watch(EPOLL_CTL_MOD, fd, EPOLLOUT, fd);
            }
            for (int turns = 0; c->state == SENDING && turns < 4; turns++) {
                uint64_t left = c->want - c->done;
                ssize_t w = send(fd, pattern + c->done % PERIOD, left < CHUNK ? left : CHUNK, MSG_NOSIGNAL);
                if (w < 0 && errno == EAGAIN) break;
                if (w < 0) { close(fd); c->state = FREE; break; }
                if ((c->done += w) == c->want) { c->state = WANT; watch(EPOLL_CTL_MOD, fd, EPOLLIN, fd); }
            }
        }
    }
}

// ---- the clients: connections are in slots by number
static struct conn *conns;
static struct sockaddr_in proxy, target;
static uint64_t complete, wrong, failed, lived;
static void begin(uint32_t index) {
    struct conn *c = &conns[index];
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (void *)&proxy, sizeof proxy) < 0 && errno != EINPROGRESS) die("connect");
    c->state = CONNECTING; c->have = 0; c->done = 0; c->began = now();
    watch(EPOLL_CTL_ADD, c->fd, EPOLLOUT, index);
}
static void end(struct conn *c) { close(c->fd); c->state = FREE; }
static void say(struct conn *c, const void *bytes, int len) {
    if (send(c->fd, bytes, len, MSG_NOSIGNAL) != len) { failed += c->state != IDLE; end(c); }
}
// Does what an event allows; the connection is FREE or IDLE when it has come to its end.
static void step(uint32_t index) {
    struct conn *c = &conns[index];
    if (c->state == CONNECTING) {
        int error = 0; socklen_t len = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error) { failed++; end(c); return; }
        c->state = GREETING;
        watch(EPOLL_CTL_MOD, c->fd, EPOLLIN, index);
        say(c, "\5\1\0", 3);
        return;
    }
    while (c->state == GREETING || c->state == REPLY) {
        int want = c->state == GREETING ? 2 : 10;
        ssize_t r = read(c->fd, c->in + c->have, want - c->have);
        if (r < 0 && errno == EAGAIN) return;
        if (r <= 0 || c->in[0] != 5) { failed++; end(c); return; }
        if ((c->have += r) < want) return;
        c->have = 0;
        if (c->in[1]) { failed++; end(c); return; }
        if (want == 2) {
            unsigned char request[10] = { 5, 1, 0, 1 };
            memcpy(request + 4, &target.sin_addr, 4); memcpy(request + 8, &target.sin_port, 2);
            c->state = REPLY;
            say(c, request, 10);
        } else {
            uint64_t bytes = htobe64(c->want);
            c->state = c->idle_one ? IDLE : FETCHING;
            say(c, &bytes, 8);
        }
    }
    for (int turns = 0; c->state == FETCHING && turns < 8; turns++) {
        ssize_t r = read(c->fd, buf, CHUNK);
        if (r < 0 && errno == EAGAIN) return;
        if (r <= 0) { failed++; end(c); return; }
        if (c->done + r > c->want || memcmp(buf, pattern + c->done % PERIOD, r)) { wrong++; end(c); return; }
        if ((c->done += r) == c->want) { complete++; end(c); }
    }
    if (c->state == IDLE && read(c->fd, buf, 1) != -1) end(c);
}
static int wait_events(struct epoll_event *events, double *heard) {
    int n = epoll_wait(ep, events, 256, 1000);
    if (n > 0) *heard = now();
    return n;
}
static int users(uint32_t count, uint64_t bytes) {
    double *took = calloc(count, sizeof *took), start = now(), heard = start;
    conns = calloc(2 * count, sizeof *conns);
    for (uint32_t i = 0; i < 2 * count; i++) {
        conns[i].user = i / 2; conns[i].idle_one = i % 2; conns[i].want = i % 2 ? 0 : bytes;
        begin(i);
    }
    while (complete + wrong + failed < count && now() - heard < SILENCE_S) {
        struct epoll_event events[256];
        int n = wait_events(events, &heard);
        for (int i = 0; i < n; i++) {
            struct conn *c = &conns[events[i].data.u32];
            uint64_t before = complete;
            if (c->state != FREE) step(events[i].data.u32);
            if (complete > before) took[c->user] = now() - start;
        }
    }
    double sum = 0, squares = 0, most = 0, secs = now() - start; uint32_t idle = 0;
    for (uint32_t i = 0; i < count; i++) {
        double rate = took[i] > 0 ? bytes / took[i] : 0;
        sum += rate; squares += rate * rate; most = took[i] > most ? took[i] : most;
    }
    for (uint32_t i = 0; i < 2 * count; i++) idle += conns[i].state == IDLE;
    printf("{\"users\": %u, \"complete\": %lu, \"wrong\": %lu, \"failed\": %lu, \"idle\": %u, \"secs\": %.3f, \"mbps\": %.1f, \"jain\": %.4f}\n",
           count, complete, wrong, failed, idle, secs, complete * bytes * 8 / secs / 1e6, squares > 0 ? sum * sum / count / squares : 0);
    fflush(stdout);
    while (read(0, buf, 1) > 0) {}
    for (uint32_t i = 0; i < 2 * count; i++) {
        if (conns[i].state == IDLE) step(i);
        lived += conns[i].state == IDLE;
    }
    printf("{\"lived\": %lu}\n", lived);
    return 0;
}
static int short_ones(uint64_t count, uint32_t at_a_time) {
    double start = now(), heard = start; uint64_t begun = 0; double worst = 0;
    conns = calloc(at_a_time, sizeof *conns);
    for (uint32_t i = 0; i < at_a_time && begun < count; i++, begun++) { conns[i].want = 64; begin(i); }
    while (complete + wrong + failed < count && now() - heard < SILENCE_S) {
        struct epoll_event events[256];
        int n = wait_events(events, &heard);
        for (int i = 0; i < n; i++) {
            uint32_t index = events[i].data.u32;
            if (conns[index].state == FREE) continue;
            step(index);
            if (conns[index].state != FREE) continue;
            double took = now() - conns[index].began;
            worst = took > worst ? took : worst;
            if (begun < count) { begun++; begin(index); }
        }
    }
    double secs = now() - start;
    printf("{\"connections\": %lu, \"complete\": %lu, \"wrong\": %lu, \"failed\": %lu, \"secs\": %.3f, \"per_s\": %.0f, \"worst_ms\": %.1f}\n",
           count, complete, wrong, failed, secs, complete / secs, worst * 1e3);
    return 0;
}
int main(int argc, char **argv) {
    struct rlimit files; getrlimit(RLIMIT_NOFILE, &files); files.rlim_cur = files.rlim_max; setrlimit(RLIMIT_NOFILE, &files);
    for (unsigned i = 0; i < sizeof pattern; i++) pattern[i] = i % PERIOD;
    signal(SIGPIPE, SIG_IGN);
    if ((ep = epoll_create1(0)) < 0) die("epoll");
    if (argc == 3 && !strcmp(argv[1], "serve")) serve(atoi(argv[2]));
    if (argc != 8) { fprintf(stderr, "see the first lines of proxyload.c\n"); return 2; }
    proxy = address(argv[2], atoi(argv[3])); target = address(argv[4], atoi(argv[5]));
    if (!strcmp(argv[1], "users")) return users(atoi(argv[6]), strtoull(argv[7], 0, 10));
    return short_ones(strtoull(argv[6], 0, 10), atoi(argv[7]));
}
