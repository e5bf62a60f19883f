/* Preloaded: a disk that is full or fails, and a wall clock that is wrong, as the file OXIPUSH_FAULTS says at each moment. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* What the test writes: numbers of 64 bits. */
struct faults {
    volatile int64_t is_full;     /* no file grows: ENOSPC */
    volatile int64_t is_failing;  /* no write and no sync of a file succeeds: EIO */
    volatile int64_t clock_step;  /* ms that the wall clock is ahead */
};

static struct faults none;
static struct faults *faults = &none;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("OXIPUSH_FAULTS");
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0) return;
    void *shared = mmap(0, sizeof *faults, PROT_READ, MAP_SHARED, fd, 0);
    if (shared != MAP_FAILED) faults = shared;
    close(fd);
}

static int fails(int error) {
    errno = error;
    return -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (faults->is_failing) return fails(EIO);
    struct stat file;
    if (faults->is_full && fstat(fd, &file) == 0 && at + (off64_t)count > file.st_size) return fails(ENOSPC);
    return real(fd, bytes, count, at);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return faults->is_failing ? fails(EIO) : real(fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return faults->is_failing ? fails(EIO) : real(fd);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, time);
    int64_t step = faults->clock_step;
    if (answer == 0 && clock == CLOCK_REALTIME && step) {
        int64_t ns = time->tv_nsec + step % 1000 * 1000000;
        time->tv_sec += step / 1000 + (ns < 0 ? -1 : ns / 1000000000);
        time->tv_nsec = (ns + 1000000000) % 1000000000;
    }
    return answer;
}
