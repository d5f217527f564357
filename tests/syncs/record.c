/* Stands before the C library and writes down what reaches the disk: one line per sync, rename and removal that has succeeded, in the
 * file that SYNCS names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void record(const char *what, const char *path, const char *to) {
    char line[3 * 4096];
    int length = snprintf(line, sizeof line, "%s %s %s\n", what, path, to);
    int log = open(getenv("SYNCS"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (log < 0 || write(log, line, length) != length) abort();
    close(log);
}

static int record_sync(int fd, int result) {
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (result == 0 && readlink(link, path, sizeof path - 1) > 0) record("sync", path, "");
    return result;
}

int fsync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    return record_sync(fd, next(fd));
}

int fdatasync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fdatasync");
    return record_sync(fd, next(fd));
}

/* What goes to a file that was opened for synchronous writes is written and synced. */
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    ssize_t (*next)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    ssize_t written = next(fd, bytes, length, at);
    if (written == (ssize_t)length && fcntl(fd, F_GETFL) & O_DSYNC) record_sync(fd, 0);
    return written;
}

int rename(const char *from, const char *to) {
    int (*next)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    int result = next(from, to);
    if (result == 0) record("rename", from, to);
    return result;
}

int unlink(const char *path) {
    int (*next)(const char *) = dlsym(RTLD_NEXT, "unlink");
    int result = next(path);
    if (result == 0) record("remove", path, "");
    return result;
}
