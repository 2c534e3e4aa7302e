/* Cuts the power at a chosen write: LD_PRELOAD.
 *
 * Every call that changes something below a folder is counted; before the chosen one the process dies by SIGKILL. What a
 * real cut takes with it besides is taken too, if asked for: contents that were not synced, names whose folder was not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { KILL = 0, HALF_WRITE = 1, LOSE_CONTENTS = 2, LOSE_ALL = 3 };
enum { MADE, MADE_FOLDER, RENAMED, REMOVED };
enum { MOST = 256 };

static char root[PATH_MAX], backups[PATH_MAX];
static long at = -1, count;
static int mode, on;

static struct {
    int kind;
    char path[PATH_MAX], to[PATH_MAX], backup[PATH_MAX + 32];
} names[MOST];
static int names_used, names_made;

static struct {
    ino_t inode;
    int handle;
} contents[MOST];
static int contents_used;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void cut_begin(const char *folder, const char *backup_folder, long number, int how) {
    snprintf(root, sizeof root, "%s", folder);
    snprintf(backups, sizeof backups, "%s", backup_folder);
    at = number, mode = how, count = 0, names_used = 0, contents_used = 0, on = 1;
}

static int below(const char *path) {
    char whole[2 * PATH_MAX], here[PATH_MAX];
    if (!on || path == NULL) return 0;
    if (path[0] == '/') return strncmp(path, root, strlen(root)) == 0;
    if (getcwd(here, sizeof here) == NULL) return 0;
    snprintf(whole, sizeof whole, "%s/%s", here, path);
    return strncmp(whole, root, strlen(root)) == 0;
}

static int path_of(int handle, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static void lose(void) {
    for (int i = 0; i < contents_used; i++) (void)!REAL(ftruncate)(contents[i].handle, 0);
    if (mode != LOSE_ALL) return;
    for (int i = names_used - 1; i >= 0; i--) switch (names[i].kind) {
        case MADE: REAL(unlink)(names[i].path); break;
        case MADE_FOLDER: REAL(rmdir)(names[i].path); break;
        case RENAMED:
            REAL(rename)(names[i].to, names[i].path);
            if (names[i].backup[0]) (void)!REAL(link)(names[i].backup, names[i].to);
            break;
        case REMOVED: (void)!REAL(link)(names[i].backup, names[i].path); break;
    }
}

void cut_now(void) {
    on = 0;
    if (mode == LOSE_CONTENTS || mode == LOSE_ALL) lose();
    kill(getpid(), SIGKILL);
}

static void step(void) {
    if (count++ == at && mode != HALF_WRITE) cut_now();
    if (count == at + 2 && mode == HALF_WRITE && at >= 0) cut_now(); /* the chosen call was no write */
}

static void note(int kind, const char *path, const char *to) {
    struct stat found;
    if (names_used == MOST) abort();
    names[names_used].kind = kind;
    snprintf(names[names_used].path, PATH_MAX, "%s", path);
    snprintf(names[names_used].to, PATH_MAX, "%s", to == NULL ? "" : to);
    names[names_used].backup[0] = 0;
    const char *gone = kind == RENAMED ? to : kind == REMOVED ? path : NULL;
    if (gone != NULL && lstat(gone, &found) == 0) {
        snprintf(names[names_used].backup, PATH_MAX + 32, "%s/%d", backups, names_made++);
        if (REAL(link)(gone, names[names_used].backup) != 0) abort();
    }
    names_used++;
}

static void written(int handle) {
    struct stat found;
    fstat(handle, &found);
    for (int i = 0; i < contents_used; i++)
        if (contents[i].inode == found.st_ino) return;
    if (contents_used == MOST) abort();
    contents[contents_used].inode = found.st_ino;
    contents[contents_used++].handle = dup(handle);
}

static void synced(int handle, const char *path) {
    struct stat found;
    fstat(handle, &found);
    if (S_ISDIR(found.st_mode)) {
        int kept = 0;
        size_t length = strlen(path);
        for (int i = 0; i < names_used; i++) {
            int here = strncmp(names[i].path, path, length) == 0 && names[i].path[length] == '/' &&
                       strchr(names[i].path + length + 1, '/') == NULL;
            if (!here) names[kept++] = names[i];
        }
        names_used = kept;
        return;
    }
    for (int i = 0; i < contents_used; i++)
        if (contents[i].inode == found.st_ino) {
            close(contents[i].handle);
            contents[i] = contents[--contents_used];
            return;
        }
}

static int opened(const char *path, int flags, mode_t rights) {
    int fresh = 0;
    if (below(path) && (flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR))) {
        step();
        fresh = (flags & O_CREAT) && access(path, F_OK) != 0;
    }
    int handle = REAL(open)(path, flags, rights);
    if (fresh && handle >= 0) note(MADE, path, NULL);
    return handle;
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t rights = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened(path, flags, rights);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t rights = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened(path, flags, rights);
}

ssize_t write(int handle, const void *bytes, size_t length) {
    char path[PATH_MAX];
    if (!on || !path_of(handle, path)) return REAL(write)(handle, bytes, length);
    if (mode == HALF_WRITE && count == at) {
        (void)!REAL(write)(handle, bytes, length / 2);
        cut_now();
    }
    step();
    written(handle);
    return REAL(write)(handle, bytes, length);
}

int rename(const char *from, const char *to) {
    if (below(to)) step(), note(RENAMED, from, to);
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    if (below(path)) step(), note(REMOVED, path, NULL);
    return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t rights) {
    if (!below(path)) return REAL(mkdir)(path, rights);
    step();
    int result = REAL(mkdir)(path, rights);
    if (result == 0) note(MADE_FOLDER, path, NULL);
    return result;
}

int symlink(const char *to, const char *path) {
    if (!below(path)) return REAL(symlink)(to, path);
    step();
    int result = REAL(symlink)(to, path);
    if (result == 0) note(MADE, path, NULL);
    return result;
}

int fsync(int handle) {
    char path[PATH_MAX];
    if (!on || !path_of(handle, path)) return REAL(fsync)(handle);
    step();
    int result = REAL(fsync)(handle);
    synced(handle, path);
    return result;
}

#define COUNTED(name, parameters, call, is_below) \
    int name parameters {                         \
        char path[PATH_MAX];                      \
        (void)path;                               \
        if (on && (is_below)) step();             \
        return REAL(name) call;                   \
    }

COUNTED(fchmod, (int handle, mode_t rights), (handle, rights), path_of(handle, path))
COUNTED(fchown, (int handle, uid_t user, gid_t group), (handle, user, group), path_of(handle, path))
COUNTED(ftruncate, (int handle, off_t length), (handle, length), path_of(handle, path))
COUNTED(chmod, (const char *name_, mode_t rights), (name_, rights), below(name_))
COUNTED(chown, (const char *name_, uid_t user, gid_t group), (name_, user, group), below(name_))
COUNTED(unlinkat, (int folder, const char *name_, int flags), (folder, name_, flags), path_of(folder, path))
COUNTED(rmdir, (const char *name_), (name_), below(name_))
