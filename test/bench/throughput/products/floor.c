/* The floor: carries bytes between a client and the server on one thread, a
 * connection of its own for each, and understands nothing of them. Whatever a proxy
 * costs beyond it is its own doing: cc -O2 -o floor floor.c; floor PORT SERVERPORT */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct end {
	int fd;
	struct end *other;
};

static char buffer[256 << 10];

static struct sockaddr_in loopback(const char *port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static void watch(int epoll, int fd, void *what) {
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = what};
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) != 0) {
		perror("epoll_ctl");
		exit(1);
	}
}

/* pass blocks: a load generator always reads. */
static int pass(struct end *from) {
	ssize_t n = read(from->fd, buffer, sizeof buffer);
	for (ssize_t done = 0; done < n;) {
		ssize_t k = write(from->other->fd, buffer + done, (size_t)(n - done));
		if (k < 0)
			return 0;
		done += k;
	}
	return n > 0;
}

int main(int argc, char **argv) {
	if (argc != 3)
		return 2;
	struct sockaddr_in here = loopback(argv[1]), server = loopback(argv[2]);
	signal(SIGPIPE, SIG_IGN); /* who leaves is seen by write */
	int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
	setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(door, (struct sockaddr *)&here, sizeof here) != 0 || listen(door, 4096) != 0) {
		perror("listen");
		return 1;
	}
	int epoll = epoll_create1(0);
	watch(epoll, door, NULL);
	for (;;) {
		struct epoll_event events[256];
		int n = epoll_wait(epoll, events, 256, -1);
		/* An end is freed only after its batch: the other may be in it. */
		struct end *gone[256];
		int left = 0;
		for (int i = 0; i < n; i++) {
			struct end *e = events[i].data.ptr;
			if (e == NULL) {
				for (int fd; (fd = accept(door, NULL, NULL)) >= 0;) {
					int up = socket(AF_INET, SOCK_STREAM, 0);
					if (up < 0 || connect(up, (struct sockaddr *)&server, sizeof server) != 0) {
						close(fd);
						close(up);
						continue;
					}
					struct end *pair = calloc(2, sizeof *pair);
					pair[0] = (struct end){fd, &pair[1]};
					pair[1] = (struct end){up, &pair[0]};
					watch(epoll, fd, &pair[0]);
					watch(epoll, up, &pair[1]);
				}
			} else if (e->fd >= 0 && !pass(e)) {
				close(e->fd);
				close(e->other->fd);
				gone[left++] = e < e->other ? e : e->other;
				e->fd = e->other->fd = -1;
			}
		}
		while (left > 0)
			free(gone[--left]);
	}
}
