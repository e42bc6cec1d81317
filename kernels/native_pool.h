/* Threads that share the parts of a job with the caller.
 *
 * The caller takes parts like any other thread and waits only for parts that somebody has begun, so
 * a thread that never gets a core costs nothing. OpenMP's threads must all arrive at the end, which on
 * a machine with other work took three times as long as one thread alone (README.md).
 *
 * A part is claimed by a compare-and-swap on `ticket`, which holds the job's number and the next part.
 * A claim of a finished job fails, because the number has moved on; a claim of the current one keeps
 * the caller waiting. So a thread touches a job's data only while the job is running.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

enum { MAX_WORKERS = 63, SPINS = 4000 }; /* about 50 us */

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() atomic_thread_fence(memory_order_seq_cst)
#endif

typedef void (*part_function)(void *data, long part);

static struct {
    pthread_mutex_t use;  /* held by the caller for the length of a job */
    pthread_mutex_t lock; /* held to read or change what follows, up to `sleepers` */
    pthread_cond_t wake;
    part_function call;
    void *data;
    long parts;
    uint32_t job;
    int workers, helpers, sleepers;
    _Atomic uint64_t ticket; /* job << 32 | next part */
    atomic_long done;
} pool = {.use = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

/* Take parts of a job until there are none left. */
static void take(uint32_t job, part_function call, void *data, long parts) {
    uint64_t ticket = atomic_load(&pool.ticket);
    for (;;) {
        if ((uint32_t)(ticket >> 32) != job || (long)(uint32_t)ticket >= parts) return;
        if (atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket + 1)) {
            call(data, (long)(uint32_t)ticket);
            atomic_fetch_add(&pool.done, 1);
            ticket = atomic_load(&pool.ticket);
        }
    }
}

static void *work(void *number) {
    uint32_t seen = 0;
    for (;;) {
        /* the next product of a solver comes after some microseconds: look for it before sleeping */
        for (int i = 0; i < SPINS && (uint32_t)(atomic_load(&pool.ticket) >> 32) == seen; i++)
            PAUSE();
        pthread_mutex_lock(&pool.lock);
        pool.sleepers++;
        while (pool.job == seen) pthread_cond_wait(&pool.wake, &pool.lock);
        pool.sleepers--;
        const uint32_t job = seen = pool.job;
        const part_function call = pool.call;
        void *data = pool.data;
        const long parts = (intptr_t)number < pool.helpers ? pool.parts : 0;
        pthread_mutex_unlock(&pool.lock);
        take(job, call, data, parts);
    }
    return NULL;
}

/* A child process has none of its parent's threads. */
static void forget_workers(void) {
    pthread_mutex_init(&pool.use, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.workers = pool.sleepers = 0;
}

/* As many workers as asked for, or as many as the system gives. They leave signals to Python. */
static void hire(int wanted) {
    static int registered = 0;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget_workers) == 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (registered && pool.workers < wanted && pool.workers < MAX_WORKERS) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)pool.workers)) break;
        pthread_detach(thread);
        pool.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* call(data, part) for every part, on at most `threads` threads. Two callers at once do not share the
 * pool: the second one works alone. */
static void share(part_function call, void *data, long parts, int threads) {
    if (parts < 2 || threads < 2 || pthread_mutex_trylock(&pool.use)) {
        for (long part = 0; part < parts; part++) call(data, part);
        return;
    }
    if (pool.workers < threads - 1) hire(threads - 1);
    pthread_mutex_lock(&pool.lock);
    const uint32_t job = ++pool.job;
    pool.call = call, pool.data = data, pool.parts = parts, pool.helpers = threads - 1;
    atomic_store(&pool.done, 0);
    atomic_store(&pool.ticket, (uint64_t)job << 32);
    if (pool.sleepers) pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    take(job, call, data, parts);
    for (int i = 0; atomic_load(&pool.done) < parts; i++)
        if (i > SPINS) sched_yield();
        else PAUSE();
    pthread_mutex_unlock(&pool.use);
}
