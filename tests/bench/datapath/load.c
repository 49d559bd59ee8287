/* SPDX-License-Identifier: Apache-2.0 */
/* Load for the datapath's figures.
 *   load server PORT                          echo on TCP
 *   load connect ADDRESS PORT SECONDS         a new connection, one byte there and back, reset; again and again
 *   load exchange ADDRESS PORT SECONDS        one connection, one byte there and back; again and again
 * The client prints {"count", "rate", "p50_us", "p99_us", "errors"}. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES 2000000
static float samples[SAMPLES];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

static void no_delay(int s)
{
	int one = 1;
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static int serve(int port)
{
	int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct epoll_event want = { .events = EPOLLIN, .data.fd = listener }, ready[64];
	char data[4096];
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (void *)&a, sizeof(a)) || listen(listener, 4096))
		return 1;
	epoll_ctl(poll, EPOLL_CTL_ADD, listener, &want);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int n = epoll_wait(poll, ready, 64, -1);
		for (int i = 0; i < n; i++) {
			int s = ready[i].data.fd;
			if (s == listener) {
				want.data.fd = accept(listener, 0, 0);
				if (want.data.fd < 0)
					continue;
				no_delay(want.data.fd);
				epoll_ctl(poll, EPOLL_CTL_ADD, want.data.fd, &want);
				continue;
			}
			ssize_t r = read(s, data, sizeof(data));
			if (r <= 0 || write(s, data, r) != r)
				close(s);
		}
	}
}

static int open_connection(const struct sockaddr_in *a)
{
	struct linger reset = { 1, 0 };
	int s = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	no_delay(s);
	if (connect(s, (const void *)a, sizeof(*a))) {
		close(s);
		return -1;
	}
	return s;
}

static int load(const struct sockaddr_in *a, double seconds, int keep)
{
	long count = 0, errors = 0;
	int s = -1;
	double start = now(), t;
	while ((t = now()) - start < seconds && count < SAMPLES && errors < 20) {
		char byte = 1;
		if (s < 0)
			s = open_connection(a);
		if (s < 0 || write(s, &byte, 1) != 1 || read(s, &byte, 1) != 1)
			errors++;
		else
			samples[count++] = now() - t;
		if (!keep && s >= 0) {
			close(s);
			s = -1;
		}
	}
	double took = now() - start;
	qsort(samples, count, sizeof(*samples), ascending);
	printf("{\"count\": %ld, \"rate\": %.1f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"errors\": %ld}\n", count,
	       count / took, count ? samples[count / 2] * 1e6 : 0, count ? samples[count * 99 / 100] * 1e6 : 0, errors);
	return errors != 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "server"))
		return serve(atoi(argv[2]));
	if (argc != 5)
		return 2;
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[3])) };
	inet_aton(argv[2], &a.sin_addr);
	return load(&a, atof(argv[4]), !strcmp(argv[1], "exchange"));
}
