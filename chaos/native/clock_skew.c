/* Moves the wall clock of one process, and nothing else: built by chaos/cluster/preload.py for chaos/nemeses/clock.py.
 *
 * CLOCK_SKEW_FILE names a file with the offset in seconds ("-3600", "0.25"); it is read again at most 20 times
 * a second. Monotonic clocks, sleeps and timeouts are left alone.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000LL
#define REREAD_NS 50000000LL

static long long read_offset_ns(const char *path) {
    char text[64];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0)
        return 0;
    text[length] = '\0';
    return (long long)(strtod(text, NULL) * SECOND_NS);
}

static long long offset_ns(void) {
    static __thread long long read_at_ns, known_ns;
    struct timespec now;
    const char *path = getenv("CLOCK_SKEW_FILE");
    if (path == NULL)
        return 0;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    long long now_ns = now.tv_sec * SECOND_NS + now.tv_nsec;
    if (read_at_ns == 0 || now_ns - read_at_ns > REREAD_NS) {
        read_at_ns = now_ns;
        known_ns = read_offset_ns(path);
    }
    return known_ns;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long long moved_ns = time->tv_sec * SECOND_NS + time->tv_nsec + offset_ns();
        time->tv_sec = moved_ns / SECOND_NS;
        time->tv_nsec = moved_ns % SECOND_NS;
    }
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds != NULL)
        *seconds = now.tv_sec;
    return now.tv_sec;
}
