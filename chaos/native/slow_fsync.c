/* Lets some fsyncs of one process take longer: built by chaos/cluster/preload.py for chaos/nemeses/slow_fsync.py.
 *
 * SLOW_FSYNC_FILE names a file with two numbers, milliseconds and one in how many: "300 100". It is read again at
 * most 20 times a second. Without the file, or with "0 0", every fsync takes its own time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000LL
#define REREAD_NS 50000000LL

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static unsigned drawn(void) {
    static __thread unsigned state;
    if (state == 0)
        state = (unsigned)now_ns() | 1;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static void wait_a_while(void) {
    static __thread long long read_at_ns;
    static __thread unsigned delay_ms, one_in;
    const char *path = getenv("SLOW_FSYNC_FILE");
    if (path == NULL)
        return;
    if (read_at_ns == 0 || now_ns() - read_at_ns > REREAD_NS) {
        FILE *file = fopen(path, "re");
        read_at_ns = now_ns();
        if (file == NULL || fscanf(file, "%u %u", &delay_ms, &one_in) != 2)
            delay_ms = one_in = 0;
        if (file != NULL)
            fclose(file);
    }
    if (one_in > 0 && drawn() % one_in == 0) {
        struct timespec pause = {delay_ms / 1000, (delay_ms % 1000) * 1000000L};
        nanosleep(&pause, NULL);
    }
}

#define REAL(name, ...) ((int (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

int fsync(int file) {
    wait_a_while();
    return REAL("fsync", int)(file);
}

int fdatasync(int file) {
    wait_a_while();
    return REAL("fdatasync", int)(file);
}

int msync(void *start, size_t length, int flags) {
    wait_a_while();
    return REAL("msync", void *, size_t, int)(start, length, flags);
}
