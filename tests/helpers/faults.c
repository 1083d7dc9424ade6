// Counts the calls of a process that change files in one folder, and lets one
// of them fail, or kills the process before it. See faults.py.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long struck;
static int kills;
static long count;

void faults_set(const char *path, long number, int kill_process) {
  snprintf(folder, sizeof(folder), "%s/", path);
  struck = number;
  kills = kill_process;
  __atomic_store_n(&count, 0, __ATOMIC_SEQ_CST);
}

long faults_count(void) { return __atomic_load_n(&count, __ATOMIC_SEQ_CST); }

static int is_struck(void) {
  long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
  if (!struck || number < struck) return 0;
  if (kills) kill(getpid(), SIGKILL);
  errno = ENOSPC;
  return 1;
}

static int fd_path(int fd, char *path, size_t size) {
  char link[64];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, size - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return 1;
}

static int is_inside(const char *path) {
  return strncmp(path, folder, strlen(folder)) == 0;
}

// `frees`: a full disk lets it through.
static int fails_at(int dir, const char *path, int frees) {
  if (!folder[0] || !path || (frees && !kills)) return 0;
  if (path[0] == '/' || dir == AT_FDCWD) return is_inside(path) && is_struck();
  char whole[PATH_MAX];
  if (!fd_path(dir, whole, sizeof(whole))) return 0;
  strncat(whole, "/", sizeof(whole) - strlen(whole) - 1);
  return is_inside(whole) && is_struck();
}

static int fails(const char *path, int frees) {
  return fails_at(AT_FDCWD, path, frees);
}

static int fails_fd(int fd) {
  if (!folder[0]) return 0;
  int kept = errno;
  char path[PATH_MAX];
  int inside = fd_path(fd, path, sizeof(path)) && is_inside(path);
  errno = kept;
  return inside && is_struck();
}

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

int mkdir(const char *path, mode_t mode) {
  if (fails(path, 0)) return -1;
  return NEXT(int (*)(const char *, mode_t), "mkdir")(path, mode);
}

int mkdirat(int dir, const char *path, mode_t mode) {
  if (fails_at(dir, path, 0)) return -1;
  return NEXT(int (*)(int, const char *, mode_t), "mkdirat")(dir, path, mode);
}

int rename(const char *from, const char *to) {
  if (fails(to, 0)) return -1;
  return NEXT(int (*)(const char *, const char *), "rename")(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
  if (fails_at(to_dir, to, 0)) return -1;
  return NEXT(int (*)(int, const char *, int, const char *), "renameat")(
      from_dir, from, to_dir, to);
}

int unlink(const char *path) {
  if (fails(path, 1)) return -1;
  return NEXT(int (*)(const char *), "unlink")(path);
}

int unlinkat(int dir, const char *path, int flags) {
  if (fails_at(dir, path, 1)) return -1;
  return NEXT(int (*)(int, const char *, int), "unlinkat")(dir, path, flags);
}

int rmdir(const char *path) {
  if (fails(path, 1)) return -1;
  return NEXT(int (*)(const char *), "rmdir")(path);
}

static int opens_to_write(int flags) {
  return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
}

#define OPEN(name)                                                  \
  int name(const char *path, int flags, ...) {                      \
    va_list list;                                                   \
    va_start(list, flags);                                          \
    mode_t mode = va_arg(list, mode_t);                             \
    va_end(list);                                                   \
    if (opens_to_write(flags) && fails(path, 0)) return -1;         \
    return NEXT(int (*)(const char *, int, ...), #name)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                       \
  int name(int dir, const char *path, int flags, ...) {                    \
    va_list list;                                                          \
    va_start(list, flags);                                                 \
    mode_t mode = va_arg(list, mode_t);                                    \
    va_end(list);                                                          \
    if (opens_to_write(flags) && fails_at(dir, path, 0)) return -1;        \
    return NEXT(int (*)(int, const char *, int, ...), #name)(dir, path,    \
                                                             flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                       \
  FILE *name(const char *path, const char *mode) {                        \
    if (strpbrk(mode, "wa+") && fails(path, 0)) return NULL;              \
    return NEXT(FILE *(*)(const char *, const char *), #name)(path, mode); \
  }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *bytes, size_t size) {
  if (fails_fd(fd)) return -1;
  return NEXT(ssize_t (*)(int, const void *, size_t), "write")(fd, bytes, size);
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
  if (fails_fd(fd)) return -1;
  return NEXT(ssize_t (*)(int, const struct iovec *, int), "writev")(fd, parts,
                                                                    number);
}
