/* A disk that fails, or a process that dies, at a chosen write: loaded with LD_PRELOAD.
 *
 * Counts the calls that change what is kept on a disk. The one that `crash_arm` chose is where the
 * process is killed or the call fails. Sockets, pipes, terminals and memory files are not counted,
 * and nor are descriptors 0 to 2, which may be log files.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, KILL_BEFORE, KILL_TORN, KILL_AFTER, FAIL, FAIL_SHORT };

static long left, seen;
static int mode, failure, full = -1;

/* From now on: the `countdown`-th counted call is the one (1 is the next; 0: only count). */
void crash_arm(long countdown, int what, int error)
{
    left = countdown;
    seen = 0;
    mode = what;
    failure = error;
    full = -1;
}

/* Counted calls since `crash_arm`. */
long crash_calls(void)
{
    return seen;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* What this call has to do: OFF for nothing unusual. */
static int verdict(void)
{
    seen++;
    return left > 0 && --left == 0 ? mode : OFF;
}

static int on_disk(int fd)
{
    struct stat found;
    int before = errno, kept;

    if (fd <= 2)
        return 0;
    /* A memory file has no link; directories are counted for fsync. */
    kept = fstat(fd, &found) == 0 && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode)) &&
           found.st_nlink > 0;
    errno = before;
    return kept;
}

/* What this write has to do. A disk that fills up takes a first part, and refuses the rest only if
 * somebody writes it: flushing what it took succeeds. */
static int verdict_on_write(int fd, size_t size)
{
    int todo = verdict();

    if (fd == full) {
        full = -1;
        return FAIL;
    }
    if (todo != FAIL_SHORT)
        return todo;
    full = fd;
    return size < 2 ? FAIL : FAIL_SHORT;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* `call` does the work; calls that are no writes are torn nowhere, so that is dying before. */
#define SIMPLE(counted, call)                                                                      \
    do {                                                                                           \
        int todo = (counted) ? verdict() : OFF;                                                    \
        if (todo == KILL_BEFORE || todo == KILL_TORN)                                              \
            die();                                                                                 \
        if (todo == FAIL || todo == FAIL_SHORT) { /* only a write can be short */                  \
            errno = failure;                                                                       \
            return -1;                                                                             \
        }                                                                                          \
        __typeof__(call) result = (call);                                                          \
        if (todo == KILL_AFTER)                                                                    \
            die();                                                                                 \
        return result;                                                                             \
    } while (0)

/* `call` writes `size` bytes, `half` the first half of them. */
#define WRITES(fd, size, call, half)                                                               \
    do {                                                                                           \
        int todo = on_disk(fd) ? verdict_on_write(fd, size) : OFF;                                 \
        ssize_t result;                                                                            \
        if (todo == KILL_BEFORE)                                                                   \
            die();                                                                                 \
        if (todo == FAIL) {                                                                        \
            errno = failure;                                                                       \
            return -1;                                                                             \
        }                                                                                          \
        result = todo == KILL_TORN || todo == FAIL_SHORT ? (half) : (call);                        \
        if (todo == KILL_TORN || todo == KILL_AFTER)                                               \
            die();                                                                                 \
        return result;                                                                             \
    } while (0)

ssize_t write(int fd, const void *data, size_t size)
{
    WRITES(fd, size, REAL(write)(fd, data, size), REAL(write)(fd, data, size / 2));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    WRITES(fd, size, REAL(pwrite)(fd, data, size, at), REAL(pwrite)(fd, data, size / 2, at));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    WRITES(fd, size, REAL(pwrite64)(fd, data, size, at), REAL(pwrite64)(fd, data, size / 2, at));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    /* The first half of the first part: a tear need not be in the middle. */
    struct iovec first = count > 0 ? parts[0] : (struct iovec){0};
    first.iov_len /= 2;
    WRITES(fd, first.iov_len * 2, REAL(writev)(fd, parts, count), REAL(writev)(fd, &first, 1));
}

int fsync(int fd)
{
    SIMPLE(on_disk(fd), REAL(fsync)(fd));
}

int fdatasync(int fd)
{
    SIMPLE(on_disk(fd), REAL(fdatasync)(fd));
}

int ftruncate(int fd, off_t size)
{
    SIMPLE(on_disk(fd), REAL(ftruncate)(fd, size));
}

int ftruncate64(int fd, off64_t size)
{
    SIMPLE(on_disk(fd), REAL(ftruncate64)(fd, size));
}

int rename(const char *from, const char *to)
{
    SIMPLE(1, REAL(rename)(from, to));
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    SIMPLE(1, REAL(renameat)(from_dir, from, to_dir, to));
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned int flags)
{
    SIMPLE(1, REAL(renameat2)(from_dir, from, to_dir, to, flags));
}

int unlink(const char *path)
{
    SIMPLE(1, REAL(unlink)(path));
}

int unlinkat(int directory, const char *path, int flags)
{
    SIMPLE(1, REAL(unlinkat)(directory, path, flags));
}
