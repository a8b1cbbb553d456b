// Sends Ethernet frames at a rate: flood IFACE FILE RATE SECONDS. FILE holds frames, each behind its length (u16, big-endian); they
// are sent in turn, over and over. Prints how many were sent, and in how many seconds. For namespaces made for the purpose only.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 32, FRAMES_MAX = 1 << 17 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: flood IFACE FILE RATE SECONDS\n");
        return 2;
    }
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    FILE *file = fopen(argv[2], "rb");
    if (!file) die(argv[2]);
    static struct iovec frames[FRAMES_MAX];
    unsigned count = 0;
    uint8_t length[2];
    while (count < FRAMES_MAX && fread(length, 1, 2, file) == 2) {
        size_t bytes = length[0] << 8 | length[1];
        void *frame = malloc(bytes);
        if (!frame || fread(frame, 1, bytes, file) != bytes) die("frame");
        frames[count++] = (struct iovec){frame, bytes};
    }
    if (!count) {
        fprintf(stderr, "%s has no frames\n", argv[2]);
        return 1;
    }
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (fd < 0) die("socket");
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(argv[1])};
    if (!to.sll_ifindex || bind(fd, (void *)&to, sizeof to)) die(argv[1]);
    int one = 1;
    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one);

    struct mmsghdr messages[BATCH] = {0};
    unsigned next = 0;
    unsigned long sent = 0;
    double begun = now(), until = begun + seconds;
    for (double at = begun; at < until; at = now()) {
        double due = (at - begun) * rate - sent;
        if (due < BATCH) {
            usleep(due < 1 ? 1e6 / rate : 50);
            if (due < 1) continue;
        }
        unsigned batch = due < BATCH ? due : BATCH;
        for (unsigned i = 0; i < batch; i++) {
            messages[i].msg_hdr.msg_iov = &frames[(next + i) % count];
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        int done = sendmmsg(fd, messages, batch, 0);
        if (done < 0) {
            if (errno == ENOBUFS || errno == EAGAIN) continue;
            die("sendmmsg");
        }
        next = (next + done) % count;
        sent += done;
    }
    printf("%lu %.3f\n", sent, now() - begun);
    return 0;
}
