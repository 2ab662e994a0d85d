/* A virtual /dev/spidevB.C for an unmodified process: loaded with LD_PRELOAD.
 *
 * Opening such a path connects to the Unix socket that HWTPM_VIRTUAL_SPIDEV names; the connection
 * is the descriptor. ioctl, read and write on it become requests to `spidev.py`, which is the
 * driver, the controller and the wires; this file knows only how arguments are passed. Without the
 * variable nothing changes, and whatever else is asked of the descriptor finds a socket.
 *
 * Bad user pointers end the process here, where the kernel would say EFAULT.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/spi/spidev.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* What `spidev.py` reads and writes, in the machine's byte order. */
enum { OPEN = 1, IOCTL, READ, WRITE };
struct request {
    uint32_t kind, argument, size; /* size bytes follow */
};
struct reply {
    int32_t result; /* a negative errno, or what the call returns */
    uint32_t size;  /* size bytes follow */
};

/* More than any buffer of spidev; the driver refuses it anyway, so it need not travel. */
#define TOO_MUCH (1u << 20)

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name) ((type)dlsym(RTLD_NEXT, name))

static int failed(int error)
{
    errno = error;
    return -1;
}

static int send_all(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return -1;
        at += sent;
        size -= sent;
    }
    return 0;
}

static int receive_all(int fd, void *data, size_t size)
{
    char *at = data;

    while (size) {
        ssize_t received = recv(fd, at, size, 0);

        if (received < 0 && errno == EINTR)
            continue;
        if (received <= 0)
            return -1;
        at += received;
        size -= received;
    }
    return 0;
}

/* One request and its reply, of which at most `room` bytes are data. */
static int ask(int fd, uint32_t kind, uint32_t argument, const void *data, size_t size,
               void *answer, size_t room)
{
    struct request request = { kind, argument, size };
    struct reply reply;
    int broken;

    pthread_mutex_lock(&one_at_a_time);
    broken = send_all(fd, &request, sizeof request) || send_all(fd, data, size) ||
             receive_all(fd, &reply, sizeof reply) || reply.size > room ||
             receive_all(fd, answer, reply.size);
    pthread_mutex_unlock(&one_at_a_time);
    if (broken)
        return failed(EIO);
    return reply.result < 0 ? failed(-reply.result) : reply.result;
}

/* -- descriptors */

static int server(struct sockaddr_un *address)
{
    const char *path = getenv("HWTPM_VIRTUAL_SPIDEV");

    if (!path || strlen(path) >= sizeof address->sun_path)
        return 0;
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    strcpy(address->sun_path, path);
    return 1;
}

/* The peer tells: so copies of a descriptor are ours too, and no table can be wrong. */
static int is_ours(int fd)
{
    struct sockaddr_un wanted, peer;
    socklen_t size = sizeof peer;
    int before = errno, ours;

    memset(&peer, 0, sizeof peer);
    ours = server(&wanted) && getpeername(fd, (struct sockaddr *)&peer, &size) == 0 &&
           size <= sizeof peer && peer.sun_family == AF_UNIX &&
           strncmp(peer.sun_path, wanted.sun_path, sizeof peer.sun_path) == 0;
    errno = before;
    return ours;
}

static int is_spidev(const char *path)
{
    struct sockaddr_un unused;

    return path && strncmp(path, "/dev/spidev", 11) == 0 && server(&unused);
}

static int open_spidev(const char *path, int flags)
{
    struct sockaddr_un address;
    int fd, error;

    if (!server(&address))
        return failed(ENOENT);
    fd = socket(AF_UNIX, SOCK_STREAM | (flags & O_CLOEXEC ? SOCK_CLOEXEC : 0), 0);
    if (fd < 0)
        return -1;
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        error = ENODEV;
    else if (ask(fd, OPEN, flags, path, strlen(path), NULL, 0) < 0)
        error = errno;
    else
        return fd;
    close(fd);
    return failed(error);
}

#define HAS_MODE(flags) (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE)

#define MODE_OF(flags, mode)                                                                       \
    do {                                                                                           \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode = HAS_MODE(flags) ? va_arg(rest, int) : 0;                                            \
        va_end(rest);                                                                              \
    } while (0)

#define INTERPOSE_OPEN(name)                                                                       \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        int mode;                                                                                  \
        MODE_OF(flags, mode);                                                                      \
        if (is_spidev(path))                                                                       \
            return open_spidev(path, flags);                                                       \
        return REAL(int (*)(const char *, int, ...), #name)(path, flags, mode);                    \
    }

#define INTERPOSE_OPENAT(name)                                                                     \
    int name(int directory, const char *path, int flags, ...)                                      \
    {                                                                                              \
        int mode;                                                                                  \
        MODE_OF(flags, mode);                                                                      \
        if (is_spidev(path))                                                                       \
            return open_spidev(path, flags);                                                       \
        return REAL(int (*)(int, const char *, int, ...), #name)(directory, path, flags, mode);    \
    }

INTERPOSE_OPEN(open)
INTERPOSE_OPEN(open64)
INTERPOSE_OPENAT(openat)
INTERPOSE_OPENAT(openat64)

/* -- calls on a descriptor */

/* The transfers as they are, and behind them what is sent; back comes what is received. */
static int message(int fd, unsigned long request, const struct spi_ioc_transfer *transfers)
{
    size_t count = _IOC_SIZE(request) / sizeof *transfers, fixed = count * sizeof *transfers;
    size_t sent = 0, received = 0, n;
    char *out, *in, *at;
    int result = -1;

    for (n = 0; n < count; n++) {
        if (transfers[n].len > TOO_MUCH)
            return failed(EMSGSIZE);
        sent += transfers[n].tx_buf ? transfers[n].len : 0;
        received += transfers[n].rx_buf ? transfers[n].len : 0;
    }
    out = malloc(fixed + sent + 1);
    in = malloc(received + 1);
    if (out && in) {
        if (fixed)
            memcpy(out, transfers, fixed);
        for (n = 0, at = out + fixed; n < count; n++)
            if (transfers[n].tx_buf) {
                memcpy(at, (void *)(uintptr_t)transfers[n].tx_buf, transfers[n].len);
                at += transfers[n].len;
            }
        result = ask(fd, IOCTL, request, out, fixed + sent, in, received);
        for (n = 0, at = in; n < count && result >= 0; n++)
            if (transfers[n].rx_buf) {
                memcpy((void *)(uintptr_t)transfers[n].rx_buf, at, transfers[n].len);
                at += transfers[n].len;
            }
    } else {
        errno = ENOMEM;
    }
    free(out);
    free(in);
    return result;
}

int ioctl(int fd, unsigned long request, ...)
{
    void *argument;
    va_list rest;
    unsigned int size = _IOC_SIZE(request);

    va_start(rest, request);
    argument = va_arg(rest, void *);
    va_end(rest);
    if (_IOC_TYPE(request) != SPI_IOC_MAGIC || !is_ours(fd))
        return REAL(int (*)(int, unsigned long, ...), "ioctl")(fd, request, argument);
    if (_IOC_NR(request) == 0 && _IOC_DIR(request) == _IOC_WRITE)
        return size % sizeof(struct spi_ioc_transfer) ? failed(EINVAL)
                                                      : message(fd, request, argument);
    if (_IOC_DIR(request) == _IOC_READ)
        return ask(fd, IOCTL, request, NULL, 0, argument, size);
    return ask(fd, IOCTL, request, argument, size, NULL, 0);
}

ssize_t read(int fd, void *data, size_t size)
{
    if (!is_ours(fd))
        return REAL(ssize_t(*)(int, void *, size_t), "read")(fd, data, size);
    return size > TOO_MUCH ? failed(EMSGSIZE) : ask(fd, READ, size, NULL, 0, data, size);
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (!is_ours(fd))
        return REAL(ssize_t(*)(int, const void *, size_t), "write")(fd, data, size);
    return size > TOO_MUCH ? failed(EMSGSIZE) : ask(fd, WRITE, size, data, size, NULL, 0);
}
