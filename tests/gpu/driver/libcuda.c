/* A software stand-in for libcuda.so.1: it proves order and ownership, not CUDA.
 *
 * The real pycuda and the real cuda-bindings run on top of it without a GPU, so that every call we make through them is
 * executed, and refused where the driver's documentation refuses it. What no document settles is as strict as it can
 * be. It has never been compared with a driver on a GPU, and its times mean nothing.
 *
 * Memory    Device memory is ordinary memory that belongs to no other allocation and is never given out twice: a copy
 *           out of range is refused, and whoever touches freed memory faults. It starts as 0xCD, not as zeros.
 *           Mapped host memory has another address on the device than on the host.
 * Streams   Work waits until somebody synchronises, and reads host memory only then: a missing wait is wrong data.
 * Kernels   There are none: cuLaunchHostFunc calls a host function, which may use device addresses as pointers.
 * Clock     A microsecond of device time passes with each copy, ten with each host function.
 * Faults    Whatever failed while running makes every later call fail, until the primary context goes.
 *
 * The functions named double_* steer it and look into it; double.py speaks to them. With LIBCUDA_REPORT set, it says at
 * exit what nobody gave back. No header of CUDA is needed; where there is one, a test holds every signature against it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef CUDA_VERSION
typedef int CUresult, CUdevice, CUdevice_attribute, CUstreamCaptureMode, CUstreamCaptureStatus, CUgraphNodeType;
typedef int CUdriverProcAddressQueryResult;
typedef unsigned long long CUdeviceptr;
typedef uint64_t cuuint64_t;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;
typedef struct CUgraphEdgeData_st CUgraphEdgeData;
typedef void (*CUhostFn)(void *);
#endif

/* ---- What can go wrong ------------------------------------------------------------------------------------------ */

#define RESULTS(X)                                                                                                    \
    X(0, SUCCESS, "no error")                                                                                         \
    X(1, ERROR_INVALID_VALUE, "invalid argument")                                                                     \
    X(2, ERROR_OUT_OF_MEMORY, "out of memory")                                                                        \
    X(3, ERROR_NOT_INITIALIZED, "initialization error")                                                               \
    X(4, ERROR_DEINITIALIZED, "driver shutting down")                                                                 \
    X(100, ERROR_NO_DEVICE, "no CUDA-capable device is detected")                                                     \
    X(101, ERROR_INVALID_DEVICE, "invalid device ordinal")                                                            \
    X(201, ERROR_INVALID_CONTEXT, "invalid device context")                                                           \
    X(400, ERROR_INVALID_HANDLE, "invalid resource handle")                                                           \
    X(401, ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state")                             \
    X(500, ERROR_NOT_FOUND, "named symbol not found")                                                                 \
    X(600, ERROR_NOT_READY, "device not ready")                                                                       \
    X(700, ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")                                         \
    X(702, ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated")                                           \
    X(709, ERROR_CONTEXT_IS_DESTROYED, "context is destroyed")                                                        \
    X(712, ERROR_HOST_MEMORY_ALREADY_REGISTERED, "part or all of the requested memory range is already mapped")       \
    X(713, ERROR_HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region")             \
    X(719, ERROR_LAUNCH_FAILED, "unspecified launch failure")                                                         \
    X(800, ERROR_NOT_PERMITTED, "operation not permitted")                                                            \
    X(801, ERROR_NOT_SUPPORTED, "operation not supported")                                                            \
    X(900, ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing")                      \
    X(901, ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture")               \
    X(902, ERROR_STREAM_CAPTURE_MERGE, "operation would result in a merge of separate capture sequences")             \
    X(904, ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work")                                       \
    X(905, ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream")                 \
    X(906, ERROR_STREAM_CAPTURE_IMPLICIT,                                                                             \
      "operation would make the legacy stream depend on a capturing blocking stream")                                 \
    X(907, ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream")           \
    X(908, ERROR_STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture from another thread")      \
    X(999, ERROR_UNKNOWN, "unknown error")

#define AS_ENUM(code, name, text) name = code,
enum { RESULTS(AS_ENUM) };

enum { NON_BLOCKING = 1, DISABLE_TIMING = 2, EXTERNAL = 1, DEVICEMAP = 2 };
enum { MODE_GLOBAL, MODE_THREAD_LOCAL, MODE_RELAXED };
enum { CAPTURE_NONE, CAPTURE_ACTIVE, CAPTURE_INVALIDATED };
enum { INTEGRATED = 18, CAN_MAP_HOST_MEMORY = 19, COMPUTE_MAJOR = 75, COMPUTE_MINOR = 76, ATTRIBUTES = 256 };
enum { PAGE = 4096, STACK = 256, JOURNAL = 1 << 17 };

/* ---- What there is ---------------------------------------------------------------------------------------------- */

/* Handles are never freed, so that a late use of one is told from a use of its successor. */
struct CUctx_st {
    bool alive, mourned;
    unsigned retained;
    uint64_t streams, events, graphs, execs;
};

typedef enum { ON_DEVICE, PAGE_LOCKED, REGISTERED } Place;

typedef struct Block {
    struct Block *next;
    Place place;
    CUcontext owner;
    char *host, *device;
    size_t bytes;
    unsigned flags;
} Block;

typedef enum { COPY_IN, COPY_OUT, COPY_ACROSS, FILL, CALL, RECORD, WAIT, LAUNCH } Kind;

typedef struct CUgraphNode_st {
    struct CUgraphNode_st *next;
    Kind kind;
    uint64_t ticket;
    char *to;
    const char *from;
    size_t bytes;
    unsigned value, width;
    CUhostFn function;
    void *data;
    CUevent event;
    CUstream awaited;
    uint64_t until;
    CUgraphExec graph;
} Work;

typedef struct {
    Work *first, *last;
    size_t count;
} Sequence;

typedef struct {
    CUgraph graph;
    CUstream origin;
    CUstreamCaptureMode mode;
    CUstreamCaptureStatus status;
    pthread_t thread;
    uint64_t id;
} Capture;

struct CUstream_st {
    bool alive, running;
    CUstream next;
    CUcontext owner;
    unsigned flags;
    Sequence queue;
    Capture *capture;
    size_t unjoined;
};

struct CUevent_st {
    bool alive;
    CUcontext owner;
    unsigned flags;
    CUstream stream;
    uint64_t ticket, done, nanoseconds;
    Capture *capture;
    size_t mark;
};

/* No document says what becomes of a graph without its context: here both kinds go with it. */
struct CUgraph_st {
    bool alive;
    CUcontext owner;
    Sequence nodes;
};

struct CUgraphExec_st {
    bool alive;
    CUcontext owner;
    Sequence nodes;
};

typedef struct {
    /* alive now */
    uint64_t contexts, allocations, allocated_bytes, pinned, pinned_bytes, streams, events, graphs, execs;
    /* since the last reset */
    uint64_t calls, executed, launches, bytes_in, bytes_out, bytes_across, pageable_copies, complaints;
} Counters;

typedef struct {
    uint64_t order, thread, subject;
    const char *name;
} Entry;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t finished;
    bool initialised, ended;
    CUresult broken;
    uint64_t endings, resets, stuck;
    uint64_t ticket, captures, nanoseconds;
    size_t memory;
    unsigned primary_flags;
    int attributes[ATTRIBUTES];
    CUcontext primary;
    CUstream streams;
    Block *blocks;
    char *arena, *arena_end;
    Counters counters;
    struct {
        char pattern[40];
        long countdown;
        CUresult result;
        bool for_ever;
        const char *failed;
    } fault;
    struct {
        long countdown;
        int kind;
    } gap;
    uint64_t entries;
    Entry journal[JOURNAL];
    char complaint[256];
} driver = {.lock = PTHREAD_MUTEX_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER};

static __thread CUcontext stack[STACK];
static __thread int depth;
static __thread bool in_host_function;

/* The handles 0, 1 and 2 are no pointers: all of them mean this one. */
static struct CUstream_st legacy = {.alive = true};
#define FIXED_STREAMS ((CUstream)2)

static const size_t DEFAULT_MEMORY = (size_t)8 << 30, ARENA = (size_t)64 << 30;

/* ---- Telling what happened -------------------------------------------------------------------------------------- */

#define complain(...)                                                                                                 \
    do {                                                                                                              \
        driver.counters.complaints++;                                                                                 \
        snprintf(driver.complaint, sizeof driver.complaint, __VA_ARGS__);                                             \
        fprintf(stderr, "libcuda stand-in: %s\n", driver.complaint);                                                  \
    } while (0)

static void write_down(const char *name, const void *subject) {
    Entry *entry = &driver.journal[driver.entries % JOURNAL];
    *entry = (Entry){driver.entries++, (uint64_t)pthread_self(), (uint64_t)(uintptr_t)subject, name};
}

static bool fits(const char *pattern, const char *name) {
    char plain[64];
    size_t length = strlen(name);
    bool versioned = strncmp(name, "cu", 2) == 0 && length > 3 && name[length - 3] == '_' && name[length - 2] == 'v';
    snprintf(plain, sizeof plain, "%.*s", (int)(versioned ? length - 3 : length), name);
    return fnmatch(pattern, plain, 0) == 0;
}

static CUresult injected(const char *name) {
    if (!driver.fault.pattern[0] || !fits(driver.fault.pattern, name))
        return SUCCESS;
    if (driver.fault.countdown > 1) {
        driver.fault.countdown--;
        return SUCCESS;
    }
    if (!driver.fault.for_ever)
        driver.fault.pattern[0] = 0;
    driver.fault.failed = name;
    driver.stuck += fits("cuMemFree*", name) || fits("cu*Destroy", name);
    return driver.fault.result;
}

#define REQUIRE(condition, error)                                                                                     \
    do {                                                                                                              \
        if (!(condition))                                                                                             \
            return error;                                                                                             \
    } while (0)

#define ATTEMPT(expression)                                                                                           \
    do {                                                                                                              \
        CUresult attempted = expression;                                                                              \
        if (attempted != SUCCESS)                                                                                     \
            return attempted;                                                                                         \
    } while (0)

/* ---- Every call goes through here ------------------------------------------------------------------------------- */

typedef enum { ALWAYS = 0, INITIALISED = 1, HEALTHY = 2, CONTEXT = 4, UNCAPTURED = 8, FAILS_LATER = 16 } Needs;

static const Needs USUAL = INITIALISED | HEALTHY | CONTEXT, WAITING = USUAL | UNCAPTURED;

typedef struct {
    CUresult refused;
} Entered;

/* Global captures forbid calls that may wait to every thread, thread-local ones to their own. */
static CUresult spoil_captures(void) {
    CUresult result = SUCCESS;
    for (CUstream stream = driver.streams; stream; stream = stream->next) {
        Capture *capture = stream->capture;
        if (!capture || capture->mode == MODE_RELAXED)
            continue;
        if (capture->mode == MODE_THREAD_LOCAL && !pthread_equal(capture->thread, pthread_self()))
            continue;
        capture->status = CAPTURE_INVALIDATED;
        result = ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return result;
}

static CUcontext current(void) {
    return stack[depth - 1];
}

static CUresult refusal(const char *name, Needs needs) {
    REQUIRE(!in_host_function, ERROR_NOT_PERMITTED);
    REQUIRE(!driver.ended, ERROR_DEINITIALIZED);
    if (!(needs & FAILS_LATER))
        ATTEMPT(injected(name));
    REQUIRE(!(needs & INITIALISED) || driver.initialised, ERROR_NOT_INITIALIZED);
    REQUIRE(!(needs & HEALTHY) || driver.broken == SUCCESS, driver.broken);
    REQUIRE(!(needs & CONTEXT) || depth, ERROR_INVALID_CONTEXT);
    REQUIRE(!(needs & CONTEXT) || current()->alive, ERROR_CONTEXT_IS_DESTROYED);
    return needs & UNCAPTURED ? spoil_captures() : SUCCESS;
}

static Entered enter(const char *name, Needs needs, const void *subject) {
    pthread_mutex_lock(&driver.lock);
    driver.counters.calls++;
    write_down(name, subject);
    return (Entered){refusal(name, needs)};
}

static void leave(Entered *entered) {
    (void)entered;
    pthread_mutex_unlock(&driver.lock);
}

#define ENTER_AS(name, needs, subject)                                                                                \
    Entered entered __attribute__((cleanup(leave))) = enter(name, needs, (const void *)(uintptr_t)(subject));         \
    if (entered.refused != SUCCESS)                                                                                   \
    return entered.refused
#define ENTER(needs, subject) ENTER_AS(__func__, needs, subject)

/* ---- Memory ----------------------------------------------------------------------------------------------------- */

static bool within(const char *start, size_t size, const void *address, size_t bytes) {
    return (const char *)address >= start && bytes <= size && (size_t)((const char *)address - start) <= size - bytes;
}

static Block *block_on_device(const void *address, size_t bytes) {
    for (Block *block = driver.blocks; block; block = block->next)
        if (block->device && within(block->device, block->bytes, address, bytes))
            return block;
    return NULL;
}

static Block *block_on_host(const void *address, size_t bytes) {
    for (Block *block = driver.blocks; block; block = block->next)
        if (block->host && within(block->host, block->bytes, address, bytes))
            return block;
    return NULL;
}

/* Addresses are never given out again, and an untouchable page lies behind each. */
static char *map_in_arena(size_t bytes, int file) {
    size_t size = (bytes + PAGE - 1) / PAGE * PAGE;
    if (!driver.arena) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        driver.arena = mmap(NULL, ARENA, PROT_NONE, flags, -1, 0);
        driver.arena_end = driver.arena + ARENA;
    }
    if (driver.arena == MAP_FAILED || size + PAGE > (size_t)(driver.arena_end - driver.arena))
        return NULL;
    int flags = MAP_FIXED | (file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    char *address = mmap(driver.arena, size, PROT_READ | PROT_WRITE, flags, file, 0);
    driver.arena += size + PAGE;
    return address == MAP_FAILED ? NULL : address;
}

static void unmap(Block *block) {
    size_t size = (block->bytes + PAGE - 1) / PAGE * PAGE;
    int gone = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (block->place != REGISTERED && block->device)
        mmap(block->device, size, PROT_NONE, gone, -1, 0);
    if (block->place == PAGE_LOCKED)
        munmap(block->host, size);
}

static bool map_block(Block *block) {
    if (block->place == ON_DEVICE)
        return (block->device = map_in_arena(block->bytes, -1)) != NULL;
    int file = memfd_create("page-locked", 0);
    if (file < 0 || ftruncate(file, (off_t)block->bytes) != 0)
        return false;
    block->host = mmap(NULL, block->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (block->flags & DEVICEMAP)
        block->device = map_in_arena(block->bytes, file);
    close(file);
    return block->host != MAP_FAILED && (block->device || !(block->flags & DEVICEMAP));
}

static size_t used_memory(void) {
    return driver.counters.allocated_bytes + (driver.attributes[INTEGRATED] ? driver.counters.pinned_bytes : 0);
}

static void count_block(const Block *block, int sign) {
    bool device = block->place == ON_DEVICE;
    *(device ? &driver.counters.allocations : &driver.counters.pinned) += (uint64_t)sign;
    *(device ? &driver.counters.allocated_bytes : &driver.counters.pinned_bytes) += (uint64_t)sign * block->bytes;
}

static void keep(Block block) {
    Block *kept = malloc(sizeof *kept);
    *kept = block;
    kept->owner = current();
    kept->next = driver.blocks;
    driver.blocks = kept;
    count_block(kept, 1);
}

static void take_out(Block **link) {
    Block *block = *link;
    *link = block->next;
    count_block(block, -1);
    unmap(block);
    free(block);
}

static CUresult allocate(Place place, size_t bytes, unsigned flags, void **address) {
    REQUIRE(address && bytes, ERROR_INVALID_VALUE);
    if (place == ON_DEVICE || driver.attributes[INTEGRATED])
        REQUIRE(bytes <= driver.memory && used_memory() <= driver.memory - bytes, ERROR_OUT_OF_MEMORY);
    Block block = {.place = place, .bytes = bytes, .flags = flags};
    REQUIRE(map_block(&block), ERROR_OUT_OF_MEMORY);
    *address = place == ON_DEVICE ? block.device : block.host;
    memset(*address, 0xCD, bytes);
    keep(block);
    return SUCCESS;
}

/* ---- Running what was queued ------------------------------------------------------------------------------------ */

static const int TYPES[] = {1, 1, 1, 2, 3, 7, 6, 4};
static const char *const KIND_NAMES[] = {"run copy in", "run copy out", "run copy across", "run fill",
                                         "run call",    "run record",   "run wait",        "run launch"};

static void append(Sequence *sequence, const Work *work) {
    Work *copy = malloc(sizeof *copy);
    *copy = *work;
    copy->next = NULL;
    *(sequence->last ? &sequence->last->next : &sequence->first) = copy;
    sequence->last = copy;
    sequence->count++;
}

static void drop_first(Sequence *sequence) {
    Work *first = sequence->first;
    sequence->first = first->next;
    if (!sequence->first)
        sequence->last = NULL;
    sequence->count--;
    free(first);
}

static void clear(Sequence *sequence) {
    while (sequence->first)
        drop_first(sequence);
}

static bool reaches_outside(const Work *work) {
    bool from_device = work->kind == COPY_OUT || work->kind == COPY_ACROSS;
    bool to_device = work->kind == COPY_IN || work->kind == COPY_ACROSS || work->kind == FILL;
    return (from_device && !block_on_device(work->from, work->bytes)) ||
           (to_device && !block_on_device(work->to, work->bytes));
}

static void copy(const Work *work) {
    uint64_t *counters[] = {&driver.counters.bytes_in, &driver.counters.bytes_out, &driver.counters.bytes_across};
    *counters[work->kind] += work->bytes;
    memmove(work->to, work->from, work->bytes);
}

static void fill(const Work *work) {
    for (size_t at = 0; at < work->bytes; at += work->width)
        memcpy(work->to + at, &work->value, work->width);
}

/* Others may go on meanwhile: a host function written in Python waits for whoever holds the interpreter. */
static void call(const Work *work) {
    CUhostFn function = work->function;
    void *data = work->data;
    pthread_mutex_unlock(&driver.lock);
    in_host_function = true;
    function(data);
    in_host_function = false;
    pthread_mutex_lock(&driver.lock);
}

static void run_until(CUstream stream, uint64_t ticket);

static void execute(CUstream stream, const Work *work, uint64_t ticket) {
    bool works = work->kind <= CALL;
    CUresult fault = works ? injected("execute") : SUCCESS;
    driver.counters.executed++;
    driver.nanoseconds += works ? work->kind == CALL ? 10000 : 1000 : 0;
    write_down(KIND_NAMES[work->kind], stream);
    if (work->kind == RECORD) {
        work->event->done = ticket;
        work->event->nanoseconds = driver.nanoseconds;
    }
    if (driver.broken != SUCCESS)
        return;
    if (fault != SUCCESS)
        driver.broken = fault;
    else if (reaches_outside(work)) {
        complain("%s of %zu bytes reached outside device memory", KIND_NAMES[work->kind], work->bytes);
        driver.broken = ERROR_ILLEGAL_ADDRESS;
    } else if (work->kind <= COPY_ACROSS)
        copy(work);
    else if (work->kind == FILL)
        fill(work);
    else if (work->kind == CALL)
        call(work);
    else if (work->kind == WAIT)
        run_until(work->awaited, work->until);
    else if (work->kind == LAUNCH)
        for (Work *node = work->graph->nodes.first; node; node = node->next)
            execute(stream, node, ticket);
}

/* The legacy stream and the blocking ones wait for each other. */
static void run_what_came_before(CUstream stream, uint64_t ticket) {
    if (stream->flags & NON_BLOCKING)
        return;
    if (stream != &legacy) {
        run_until(&legacy, ticket - 1);
        return;
    }
    for (CUstream other = driver.streams; other; other = other->next)
        if (!(other->flags & NON_BLOCKING))
            run_until(other, ticket - 1);
}

/* Whatever a stream waits for has an earlier ticket, so this ends. */
static void run_until(CUstream stream, uint64_t ticket) {
    while (stream->queue.first && stream->queue.first->ticket <= ticket) {
        if (stream->running) {
            pthread_cond_wait(&driver.finished, &driver.lock);
            continue;
        }
        stream->running = true;
        Work *work = stream->queue.first;
        run_what_came_before(stream, work->ticket);
        execute(stream, work, work->ticket);
        drop_first(&stream->queue);
        stream->running = false;
        pthread_cond_broadcast(&driver.finished);
    }
}

static void run_everything(void) {
    run_until(&legacy, driver.ticket);
    for (CUstream stream = driver.streams; stream; stream = stream->next)
        run_until(stream, driver.ticket);
}

static bool touches(const Block *block, const void *address) {
    return (block->device && within(block->device, block->bytes, address, 1)) ||
           (block->host && within(block->host, block->bytes, address, 1));
}

static bool uses(const Work *work, const Block *block, CUgraphExec exec) {
    if (work->kind != LAUNCH)
        return block && (touches(block, work->to) || touches(block, work->from) || touches(block, work->data));
    bool found = work->graph == exec;
    for (Work *node = work->graph->nodes.first; node && !found; node = node->next)
        found = uses(node, block, exec);
    return found;
}

static bool waits_for(CUstream stream, const Block *block, CUgraphExec exec) {
    bool found = false;
    for (Work *work = stream->queue.first; work && !found; work = work->next)
        found = uses(work, block, exec);
    return found;
}

/* The driver, too, waits before it frees; that somebody relies on it is worth a word. What has nothing to do with it is
 * left alone: to wait, with the interpreter held, for another thread's host function in Python would be for ever. */
static void settle_before(const char *what, const Block *block, CUgraphExec exec) {
    bool needed = waits_for(&legacy, block, exec);
    for (CUstream stream = driver.streams; stream; stream = stream->next)
        needed |= waits_for(stream, block, exec);
    if (!needed)
        return;
    complain("%s while work that uses it was waiting", what);
    run_everything();
}

static Block **find(Place place, const void *address) {
    Block **link = &driver.blocks;
    while (*link && ((*link)->place != place || (place == ON_DEVICE ? (*link)->device : (*link)->host) != address))
        link = &(*link)->next;
    return link;
}

static CUresult give_back(Place place, const void *address, CUresult unknown) {
    settle_before("memory was freed", *find(place, address), NULL);
    Block **link = find(place, address);
    if (!*link) {
        complain("%p was freed, and is not (or no longer) allocated", address);
        return unknown;
    }
    take_out(link);
    return SUCCESS;
}

/* ---- Queueing and capturing ------------------------------------------------------------------------------------- */

static CUresult resolve(CUstream *stream) {
    if (*stream <= FIXED_STREAMS) {
        *stream = &legacy;
        return SUCCESS;
    }
    REQUIRE((*stream)->alive, ERROR_INVALID_HANDLE);
    REQUIRE((*stream)->owner->alive, ERROR_CONTEXT_IS_DESTROYED);
    return SUCCESS;
}

static bool usable(CUevent event) {
    return event && event->alive && event->owner->alive;
}

static CUresult spoil_implicit(void) {
    CUresult result = SUCCESS;
    for (CUstream stream = driver.streams; stream; stream = stream->next)
        if (stream->capture && !(stream->flags & NON_BLOCKING)) {
            stream->capture->status = CAPTURE_INVALIDATED;
            result = ERROR_STREAM_CAPTURE_IMPLICIT;
        }
    return result;
}

static void note_records(CUstream stream, const Work *work, uint64_t ticket) {
    if (work->kind == RECORD) {
        work->event->stream = stream;
        work->event->ticket = ticket;
        work->event->capture = NULL;
    }
    if (work->kind == LAUNCH)
        for (Work *node = work->graph->nodes.first; node; node = node->next)
            note_records(stream, node, ticket);
}

static CUresult capture_work(CUstream stream, const Work *work) {
    Sequence *nodes = &stream->capture->graph->nodes;
    REQUIRE(stream->capture->status == CAPTURE_ACTIVE, ERROR_STREAM_CAPTURE_INVALIDATED);
    append(nodes, work);
    stream->unjoined = stream == stream->capture->origin ? 0 : nodes->count;
    return SUCCESS;
}

static CUresult enqueue(CUstream stream, Work work) {
    ATTEMPT(resolve(&stream));
    if (stream->capture)
        return capture_work(stream, &work);
    if (stream == &legacy)
        ATTEMPT(spoil_implicit());
    work.ticket = ++driver.ticket;
    note_records(stream, &work, work.ticket);
    append(&stream->queue, &work);
    return SUCCESS;
}

static CUresult enqueue_on_memory(CUstream stream, Work work) {
    if (reaches_outside(&work)) {
        complain("%s of %zu bytes was asked for outside device memory", KIND_NAMES[work.kind], work.bytes);
        return ERROR_INVALID_VALUE;
    }
    REQUIRE(work.kind > COPY_OUT || (work.kind == COPY_IN ? work.from != NULL : work.to != NULL), ERROR_INVALID_VALUE);
    return work.bytes ? enqueue(stream, work) : SUCCESS;
}

static CUresult enqueue_host_copy(CUstream stream, Work work) {
    const char *host = work.kind == COPY_IN ? work.from : work.to;
    driver.counters.pageable_copies += block_on_host(host, work.bytes) == NULL;
    return enqueue_on_memory(stream, work);
}

static CUresult copy_and_wait(Work work) {
    ATTEMPT(spoil_implicit());
    ATTEMPT(spoil_captures());
    ATTEMPT(enqueue_on_memory(NULL, work));
    run_until(&legacy, driver.ticket);
    return driver.broken;
}

/* ---- Contexts --------------------------------------------------------------------------------------------------- */

static void drop_streams(CUcontext context) {
    for (CUstream stream = driver.streams; stream; stream = stream->next) {
        if (stream->owner != context)
            continue;
        while (stream->running)
            pthread_cond_wait(&driver.finished, &driver.lock);
        clear(&stream->queue);
        stream->capture = NULL;
    }
}

static void drop_blocks(CUcontext context) {
    for (Block **link = &driver.blocks; *link;)
        if ((*link)->owner == context)
            take_out(link);
        else
            link = &(*link)->next;
}

static void end_context(CUcontext context) {
    /* A dead context frees nothing; page-locked memory stays for as long as anyone holds its array. */
    uint64_t left = driver.counters.allocations + context->streams + context->events + context->graphs + context->execs;
    if (driver.broken == SUCCESS && left > driver.stuck)
        complain("the context ended with %lu blocks of memory, %lu streams, %lu events and %lu graphs",
                 (unsigned long)driver.counters.allocations, (unsigned long)context->streams,
                 (unsigned long)context->events, (unsigned long)(context->graphs + context->execs));
    context->alive = false;
    drop_streams(context);
    drop_blocks(context);
    driver.counters.contexts--;
    driver.counters.streams -= context->streams;
    driver.counters.events -= context->events;
    driver.counters.graphs -= context->graphs;
    driver.counters.execs -= context->execs;
    driver.endings++;
    driver.broken = SUCCESS;
    driver.primary = NULL;
}

static CUresult retain(CUcontext *context) {
    if (!driver.primary) {
        driver.primary = calloc(1, sizeof *driver.primary);
        driver.primary->alive = true;
        driver.counters.contexts++;
    }
    driver.primary->retained++;
    *context = driver.primary;
    return SUCCESS;
}

static CUresult release(void) {
    REQUIRE(driver.primary, ERROR_INVALID_CONTEXT);
    if (--driver.primary->retained == 0)
        end_context(driver.primary);
    return SUCCESS;
}

/* A reset releases nothing: whoever retained the context holds the new one, and what is current anywhere is dead. */
static CUresult renew(void) {
    CUcontext old = driver.primary, renewed;
    driver.resets++;
    REQUIRE(old, SUCCESS);
    end_context(old);
    retain(&renewed);
    renewed->retained = old->retained;
    return SUCCESS;
}

static CUresult push(CUcontext context) {
    REQUIRE(context && context->alive, ERROR_INVALID_CONTEXT);
    REQUIRE(depth < STACK, ERROR_ILLEGAL_STATE);
    if (depth && !current()->alive && !current()->mourned) {
        current()->mourned = true;
        complain("a context was pushed onto a dead one: whoever releases a context has to pop it as well");
    }
    stack[depth++] = context;
    return SUCCESS;
}

static CUresult pop(CUcontext *context) {
    REQUIRE(depth, ERROR_INVALID_CONTEXT);
    depth--;
    if (context)
        *context = stack[depth];
    return SUCCESS;
}

/* ---- Streams and events ----------------------------------------------------------------------------------------- */

static CUresult create_stream(CUstream *stream, unsigned flags) {
    REQUIRE(stream && flags <= NON_BLOCKING, ERROR_INVALID_VALUE);
    *stream = calloc(1, sizeof **stream);
    **stream = (struct CUstream_st){.alive = true, .owner = current(), .flags = flags, .next = driver.streams};
    driver.streams = *stream;
    driver.counters.streams++;
    current()->streams++;
    return SUCCESS;
}

static CUresult destroy_stream(CUstream stream) {
    REQUIRE(stream > FIXED_STREAMS && stream->alive, ERROR_INVALID_HANDLE);
    if (stream->capture)
        stream->capture->status = CAPTURE_INVALIDATED;
    if (stream->queue.count)
        complain("a stream was destroyed while %zu pieces of work waited on it", stream->queue.count);
    run_until(stream, driver.ticket);
    stream->alive = false;
    stream->capture = NULL;
    stream->owner->streams--;
    driver.counters.streams--;
    return SUCCESS;
}

static CUresult refuse_captured(CUstream stream) {
    if (!stream->capture)
        return stream == &legacy ? spoil_implicit() : SUCCESS;
    stream->capture->status = CAPTURE_INVALIDATED;
    return ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

static CUresult synchronize_stream(CUstream stream) {
    ATTEMPT(resolve(&stream));
    ATTEMPT(refuse_captured(stream));
    run_until(stream, driver.ticket);
    return driver.broken;
}

/* One piece of work per question, so that whoever asks in a loop comes to an end. */
static void run_next(CUstream stream) {
    if (stream->queue.first && !stream->running)
        run_until(stream, stream->queue.first->ticket);
}

static CUresult query_stream(CUstream stream) {
    ATTEMPT(resolve(&stream));
    ATTEMPT(refuse_captured(stream));
    bool ready = stream->queue.count == 0;
    run_next(stream);
    ATTEMPT(driver.broken);
    return ready ? SUCCESS : ERROR_NOT_READY;
}

static CUresult create_event(CUevent *event, unsigned flags) {
    REQUIRE(event && flags < 8, ERROR_INVALID_VALUE);
    *event = calloc(1, sizeof **event);
    **event = (struct CUevent_st){.alive = true, .owner = current(), .flags = flags};
    driver.counters.events++;
    current()->events++;
    return SUCCESS;
}

static CUresult destroy_event(CUevent event) {
    REQUIRE(usable(event), ERROR_INVALID_HANDLE);
    event->alive = false;
    event->owner->events--;
    driver.counters.events--;
    return SUCCESS;
}

/* In a capture a record is only a mark to wait for, unless it is external: then it is a node. */
static CUresult record(CUevent event, CUstream stream, unsigned flags) {
    REQUIRE(usable(event), ERROR_INVALID_HANDLE);
    ATTEMPT(resolve(&stream));
    REQUIRE(flags <= EXTERNAL && (stream->capture || !flags), ERROR_INVALID_VALUE);
    if (!stream->capture || flags)
        return enqueue(stream, (Work){.kind = RECORD, .event = event});
    REQUIRE(stream->capture->status == CAPTURE_ACTIVE, ERROR_STREAM_CAPTURE_INVALIDATED);
    event->stream = stream;
    event->capture = stream->capture;
    event->mark = stream->capture->graph->nodes.count;
    return SUCCESS;
}

/* In a capture a wait takes a stream in, or joins one that was taken in before. */
static CUresult wait_for_captured(CUstream stream, CUevent event) {
    REQUIRE(!stream->capture || stream->capture == event->capture, ERROR_STREAM_CAPTURE_MERGE);
    REQUIRE(event->capture->status == CAPTURE_ACTIVE, ERROR_STREAM_CAPTURE_INVALIDATED);
    REQUIRE(stream != &legacy, ERROR_STREAM_CAPTURE_IMPLICIT);
    stream->capture = event->capture;
    if (event->stream != stream && event->mark >= event->stream->unjoined)
        event->stream->unjoined = 0;
    return SUCCESS;
}

static CUresult wait_for(CUstream stream, CUevent event, unsigned flags) {
    REQUIRE(usable(event), ERROR_INVALID_HANDLE);
    ATTEMPT(resolve(&stream));
    REQUIRE(flags <= EXTERNAL && (stream->capture || !flags), ERROR_INVALID_VALUE);
    if (event->capture)
        return wait_for_captured(stream, event);
    if (stream->capture && !flags) {
        stream->capture->status = CAPTURE_INVALIDATED;
        return ERROR_STREAM_CAPTURE_ISOLATION;
    }
    REQUIRE(event->ticket, SUCCESS);
    return enqueue(stream, (Work){.kind = WAIT, .awaited = event->stream, .until = event->ticket});
}

static bool finished(CUevent event) {
    return event->done >= event->ticket;
}

static CUresult synchronize_event(CUevent event) {
    REQUIRE(usable(event), ERROR_INVALID_HANDLE);
    REQUIRE(!event->capture, ERROR_CAPTURED_EVENT);
    if (event->ticket)
        run_until(event->stream, event->ticket);
    return driver.broken;
}

static CUresult query_event(CUevent event) {
    REQUIRE(usable(event), ERROR_INVALID_HANDLE);
    REQUIRE(!event->capture, ERROR_CAPTURED_EVENT);
    REQUIRE(!finished(event), SUCCESS);
    run_next(event->stream);
    ATTEMPT(driver.broken);
    return ERROR_NOT_READY;
}

static CUresult elapsed(float *milliseconds, CUevent start, CUevent stop) {
    REQUIRE(usable(start) && usable(stop), ERROR_INVALID_HANDLE);
    REQUIRE(!((start->flags | stop->flags) & DISABLE_TIMING), ERROR_INVALID_HANDLE);
    REQUIRE(!start->capture && !stop->capture, ERROR_CAPTURED_EVENT);
    REQUIRE(start->ticket && stop->ticket, ERROR_INVALID_HANDLE);
    REQUIRE(finished(start) && finished(stop), ERROR_NOT_READY);
    *milliseconds = (float)((double)stop->nanoseconds - (double)start->nanoseconds) * 1e-6f;
    return SUCCESS;
}

/* ---- Captures and graphs ---------------------------------------------------------------------------------------- */

static CUgraph new_graph(void) {
    CUgraph graph = calloc(1, sizeof *graph);
    *graph = (struct CUgraph_st){.alive = true, .owner = current()};
    driver.counters.graphs++;
    current()->graphs++;
    return graph;
}

static bool is_graph(CUgraph graph) {
    return graph && graph->alive && graph->owner->alive;
}

static CUresult destroy_graph(CUgraph graph) {
    REQUIRE(is_graph(graph), ERROR_INVALID_VALUE);
    clear(&graph->nodes);
    graph->alive = false;
    graph->owner->graphs--;
    driver.counters.graphs--;
    return SUCCESS;
}

static CUresult begin_capture(CUstream stream, CUstreamCaptureMode mode) {
    ATTEMPT(resolve(&stream));
    REQUIRE(stream != &legacy, ERROR_STREAM_CAPTURE_UNSUPPORTED);
    REQUIRE(!stream->capture, ERROR_ILLEGAL_STATE);
    REQUIRE((unsigned)mode <= MODE_RELAXED, ERROR_INVALID_VALUE);
    stream->capture = malloc(sizeof *stream->capture);
    *stream->capture = (Capture){new_graph(), stream, mode, CAPTURE_ACTIVE, pthread_self(), ++driver.captures};
    return SUCCESS;
}

static bool let_go(Capture *capture) {
    bool unjoined = false;
    for (CUstream stream = driver.streams; stream; stream = stream->next)
        if (stream->capture == capture) {
            unjoined |= stream->unjoined > 0;
            stream->capture = NULL;
            stream->unjoined = 0;
        }
    return unjoined;
}

/* A capture ends even where the call is made to fail, as it does in every failure that is documented. */
static CUresult end_capture(CUstream stream, CUgraph *graph) {
    *graph = NULL;
    ATTEMPT(resolve(&stream));
    Capture *capture = stream->capture;
    REQUIRE(capture && capture->origin == stream, ERROR_ILLEGAL_STATE);
    REQUIRE(capture->mode == MODE_RELAXED || pthread_equal(capture->thread, pthread_self()),
            ERROR_STREAM_CAPTURE_WRONG_THREAD);
    bool unjoined = let_go(capture);
    CUresult refused = injected("cuStreamEndCapture");
    if (capture->status == CAPTURE_ACTIVE && !unjoined && refused == SUCCESS) {
        *graph = capture->graph;
        return SUCCESS;
    }
    destroy_graph(capture->graph);
    ATTEMPT(refused);
    return capture->status == CAPTURE_ACTIVE ? ERROR_STREAM_CAPTURE_UNJOINED : ERROR_STREAM_CAPTURE_INVALIDATED;
}

static CUresult tell_capture(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph) {
    ATTEMPT(resolve(&stream));
    *status = stream->capture ? stream->capture->status : CAPTURE_NONE;
    if (id)
        *id = stream->capture ? stream->capture->id : 0;
    if (graph)
        *graph = stream->capture ? stream->capture->graph : NULL;
    return SUCCESS;
}

static CUresult instantiate(CUgraphExec *exec, CUgraph graph) {
    REQUIRE(exec && is_graph(graph), ERROR_INVALID_VALUE);
    *exec = calloc(1, sizeof **exec);
    **exec = (struct CUgraphExec_st){.alive = true, .owner = current()};
    bool gap = driver.gap.countdown && --driver.gap.countdown == 0;
    for (Work *node = graph->nodes.first; node; node = node->next)
        if (!gap || (int)node->kind != driver.gap.kind)
            append(&(*exec)->nodes, node);
    driver.counters.execs++;
    current()->execs++;
    return SUCCESS;
}

static bool launchable(CUgraphExec exec) {
    return exec && exec->alive && exec->owner->alive;
}

static CUresult launch(CUgraphExec exec, CUstream stream) {
    REQUIRE(launchable(exec), ERROR_INVALID_VALUE);
    driver.counters.launches++;
    return enqueue(stream, (Work){.kind = LAUNCH, .graph = exec});
}

static CUresult destroy_exec(CUgraphExec exec) {
    REQUIRE(launchable(exec), ERROR_INVALID_VALUE);
    settle_before("an executable graph was destroyed", NULL, exec);
    exec->alive = false;
    clear(&exec->nodes);
    exec->owner->execs--;
    driver.counters.execs--;
    return SUCCESS;
}

static CUresult list_nodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
    REQUIRE(is_graph(graph), ERROR_INVALID_VALUE);
    size_t room = nodes ? *count : 0;
    for (Work *node = graph->nodes.first; node && room; node = node->next, room--)
        *nodes++ = node;
    *count = nodes ? *count - room : graph->nodes.count;
    return SUCCESS;
}

/* ---- The functions of the driver -------------------------------------------------------------------------------- */

static void say_what_is_left(void) {
    const Counters *left = &driver.counters;
    const uint64_t counts[] = {left->contexts, left->allocations, left->pinned, left->streams,
                               left->events,   left->graphs,      left->execs,  left->complaints};
    const char *const NAMES[] = {"contexts", "allocations", "pinned", "streams",
                                 "events",   "graphs",      "execs",  "complaints"};
    for (size_t index = 0; index < sizeof counts / sizeof *counts; index++)
        fprintf(stderr, "%s%s %lu", index ? ", " : "libcuda stand-in: left at exit: ", NAMES[index],
                (unsigned long)counts[index]);
    fputc('\n', stderr);
}

static void end(void) {
    if (getenv("LIBCUDA_REPORT"))
        say_what_is_left();
    driver.ended = true;
}

#define API(name, parameters, needs, subject, ...)                                                                    \
    CUresult name parameters {                                                                                        \
        ENTER(needs, subject);                                                                                        \
        __VA_ARGS__;                                                                                                  \
        return SUCCESS;                                                                                               \
    }
#define TEXT(code, name, text) case code: *answer = text; return SUCCESS;
#define NAME(code, name, text) case code: *answer = "CUDA_" #name; return SUCCESS;
#define AT(address) ((void *)(uintptr_t)(address))
#define ONLY_DEVICE REQUIRE(device == 0, ERROR_INVALID_DEVICE)
#define COPYING(kind_, to_, from_) (Work){.kind = kind_, .to = AT(to_), .from = AT(from_), .bytes = bytes}
#define FILLING(size) (Work){.kind = FILL, .to = AT(to), .bytes = count * size, .value = value, .width = size}

API(cuInit, (unsigned int flags), ALWAYS, NULL, REQUIRE(!flags, ERROR_INVALID_VALUE);
    static bool registered;
    if (!registered) atexit(end);
    registered = driver.initialised = true)
API(cuDriverGetVersion, (int *version), ALWAYS, NULL, *version = 13000)
CUresult cuGetErrorString(CUresult error, const char **answer) {
    switch ((int)error) { RESULTS(TEXT) }
    *answer = NULL;
    return ERROR_INVALID_VALUE;
}
CUresult cuGetErrorName(CUresult error, const char **answer) {
    switch ((int)error) { RESULTS(NAME) }
    *answer = NULL;
    return ERROR_INVALID_VALUE;
}

API(cuDeviceGetCount, (int *count), INITIALISED, NULL, *count = 1)
API(cuDeviceGet, (CUdevice *answer, int device), INITIALISED, NULL, ONLY_DEVICE; *answer = 0)
API(cuDeviceGetName, (char *name, int length, CUdevice device), INITIALISED, NULL, ONLY_DEVICE;
    snprintf(name, (size_t)length, "Stand-in"))
API(cuDeviceGetPCIBusId, (char *name, int length, CUdevice device), INITIALISED, NULL, ONLY_DEVICE;
    snprintf(name, (size_t)length, "0000:00:00.0"))
API(cuDeviceGetAttribute, (int *value, CUdevice_attribute attribute, CUdevice device), INITIALISED, NULL, ONLY_DEVICE;
    REQUIRE((unsigned)attribute < ATTRIBUTES, ERROR_INVALID_VALUE);
    *value = driver.attributes[attribute])
API(cuDeviceComputeCapability, (int *major, int *minor, CUdevice device), INITIALISED, NULL, ONLY_DEVICE;
    *major = driver.attributes[COMPUTE_MAJOR]; *minor = driver.attributes[COMPUTE_MINOR])
API(cuDeviceTotalMem_v2, (size_t *bytes, CUdevice device), INITIALISED, NULL, ONLY_DEVICE; *bytes = driver.memory)

API(cuDevicePrimaryCtxRetain, (CUcontext *context, CUdevice device), INITIALISED, NULL, ONLY_DEVICE;
    return retain(context))
API(cuDevicePrimaryCtxRelease_v2, (CUdevice device), INITIALISED, driver.primary, ONLY_DEVICE; return release())
API(cuDevicePrimaryCtxReset_v2, (CUdevice device), INITIALISED, driver.primary, ONLY_DEVICE; return renew())
API(cuDevicePrimaryCtxSetFlags_v2, (CUdevice device, unsigned int flags), INITIALISED, NULL, ONLY_DEVICE;
    driver.primary_flags = flags)
API(cuDevicePrimaryCtxGetState, (CUdevice device, unsigned int *flags, int *active), INITIALISED, NULL, ONLY_DEVICE;
    *flags = driver.primary_flags; *active = driver.primary != NULL)
API(cuCtxPushCurrent_v2, (CUcontext context), INITIALISED, context, return push(context))
API(cuCtxPopCurrent_v2, (CUcontext *context), INITIALISED, NULL, return pop(context))
API(cuCtxSetCurrent, (CUcontext context), INITIALISED, context,
    if (depth) depth--;
    return context ? push(context) : SUCCESS)
API(cuCtxGetCurrent, (CUcontext *context), INITIALISED, NULL, *context = depth ? current() : NULL)
API(cuCtxGetDevice, (CUdevice *device), INITIALISED | CONTEXT, NULL, *device = 0)
API(cuCtxGetFlags, (unsigned int *flags), INITIALISED | CONTEXT, NULL, *flags = driver.primary_flags)
API(cuCtxSynchronize, (void), WAITING, NULL, run_everything(); return driver.broken)
/* pycuda drops a primary context so if nobody called its detach(); the driver takes none but those of cuCtxCreate. */
API(cuCtxDetach, (CUcontext context), INITIALISED, context, return ERROR_INVALID_CONTEXT)

API(cuMemGetInfo_v2, (size_t *unused, size_t *total), USUAL, NULL,
    *total = driver.memory; *unused = driver.memory - used_memory())
API(cuMemAlloc_v2, (CUdeviceptr *address, size_t bytes), WAITING, NULL,
    return allocate(ON_DEVICE, bytes, 0, (void **)address))
API(cuMemFree_v2, (CUdeviceptr address), WAITING, address,
    return address ? give_back(ON_DEVICE, AT(address), ERROR_INVALID_VALUE) : SUCCESS)
API(cuMemHostAlloc, (void **address, size_t bytes, unsigned int flags), WAITING, NULL,
    REQUIRE(!(flags & DEVICEMAP) || driver.attributes[CAN_MAP_HOST_MEMORY], ERROR_NOT_SUPPORTED);
    return allocate(PAGE_LOCKED, bytes, flags, address))
API(cuMemFreeHost, (void *address), WAITING, address, return give_back(PAGE_LOCKED, address, ERROR_INVALID_VALUE))
API(cuMemHostRegister_v2, (void *address, size_t bytes, unsigned int flags), WAITING, address,
    REQUIRE(address && bytes, ERROR_INVALID_VALUE);
    REQUIRE(!block_on_host(address, 1), ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    keep((Block){.place = REGISTERED, .host = address, .device = address, .bytes = bytes, .flags = flags}))
API(cuMemHostUnregister, (void *address), WAITING, address,
    return give_back(REGISTERED, address, ERROR_HOST_MEMORY_NOT_REGISTERED))
API(cuMemHostGetDevicePointer_v2, (CUdeviceptr *device, void *host, unsigned int flags), USUAL, host,
    Block *block = block_on_host(host, 1);
    REQUIRE(block && block->device && !flags, ERROR_INVALID_VALUE);
    *device = (CUdeviceptr)(uintptr_t)(block->device + ((char *)host - block->host)))
API(cuMemHostGetFlags, (unsigned int *flags, void *host), USUAL, host,
    Block *block = block_on_host(host, 1);
    REQUIRE(block, ERROR_INVALID_VALUE);
    *flags = block->flags)

API(cuMemcpyHtoD_v2, (CUdeviceptr to, const void *from, size_t bytes), USUAL, to,
    return copy_and_wait(COPYING(COPY_IN, to, from)))
API(cuMemcpyDtoH_v2, (void *to, CUdeviceptr from, size_t bytes), USUAL, from,
    return copy_and_wait(COPYING(COPY_OUT, to, from)))
API(cuMemcpyDtoD_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes), USUAL, to,
    return enqueue_on_memory(NULL, COPYING(COPY_ACROSS, to, from)))
API(cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream), USUAL, stream,
    return enqueue_host_copy(stream, COPYING(COPY_IN, to, from)))
API(cuMemcpyDtoHAsync_v2, (void *to, CUdeviceptr from, size_t bytes, CUstream stream), USUAL, stream,
    return enqueue_host_copy(stream, COPYING(COPY_OUT, to, from)))
API(cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream), USUAL, stream,
    return enqueue_on_memory(stream, COPYING(COPY_ACROSS, to, from)))
API(cuMemsetD8_v2, (CUdeviceptr to, unsigned char value, size_t count), USUAL, to,
    return enqueue_on_memory(NULL, FILLING(1)))
API(cuMemsetD32_v2, (CUdeviceptr to, unsigned int value, size_t count), USUAL, to,
    return enqueue_on_memory(NULL, FILLING(4)))
API(cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t count, CUstream stream), USUAL, stream,
    return enqueue_on_memory(stream, FILLING(1)))
API(cuMemsetD32Async, (CUdeviceptr to, unsigned int value, size_t count, CUstream stream), USUAL, stream,
    return enqueue_on_memory(stream, FILLING(4)))

API(cuStreamCreate, (CUstream *stream, unsigned int flags), USUAL, NULL, return create_stream(stream, flags))
API(cuStreamCreateWithPriority, (CUstream *stream, unsigned int flags, int priority), USUAL, NULL,
    (void)priority; return create_stream(stream, flags))
API(cuStreamDestroy_v2, (CUstream stream), USUAL, stream, return destroy_stream(stream))
API(cuStreamSynchronize, (CUstream stream), WAITING, stream, return synchronize_stream(stream))
API(cuStreamQuery, (CUstream stream), WAITING, stream, return query_stream(stream))
API(cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned int flags), USUAL, stream,
    return wait_for(stream, event, flags))
API(cuStreamGetCtx, (CUstream stream, CUcontext *context), USUAL, stream,
    ATTEMPT(resolve(&stream)); *context = stream == &legacy ? current() : stream->owner)
API(cuStreamGetFlags, (CUstream stream, unsigned int *flags), USUAL, stream,
    ATTEMPT(resolve(&stream)); *flags = stream->flags)
API(cuLaunchHostFunc, (CUstream stream, CUhostFn function, void *data), USUAL, stream,
    REQUIRE(function, ERROR_INVALID_VALUE);
    return enqueue(stream, (Work){.kind = CALL, .function = function, .data = data}))

API(cuEventCreate, (CUevent *event, unsigned int flags), USUAL, NULL, return create_event(event, flags))
API(cuEventDestroy_v2, (CUevent event), USUAL, event, return destroy_event(event))
API(cuEventRecord, (CUevent event, CUstream stream), USUAL, stream, return record(event, stream, 0))
API(cuEventRecordWithFlags, (CUevent event, CUstream stream, unsigned int flags), USUAL, stream,
    return record(event, stream, flags))
API(cuEventSynchronize, (CUevent event), WAITING, event, return synchronize_event(event))
API(cuEventQuery, (CUevent event), WAITING, event, return query_event(event))
API(cuEventElapsedTime, (float *milliseconds, CUevent start, CUevent stop), USUAL, stop,
    return elapsed(milliseconds, start, stop))
API(cuEventElapsedTime_v2, (float *milliseconds, CUevent start, CUevent stop), USUAL, stop,
    return elapsed(milliseconds, start, stop))

API(cuStreamBeginCapture_v2, (CUstream stream, CUstreamCaptureMode mode), USUAL, stream,
    return begin_capture(stream, mode))
API(cuStreamEndCapture, (CUstream stream, CUgraph *graph), USUAL | FAILS_LATER, stream,
    return end_capture(stream, graph))
API(cuStreamIsCapturing, (CUstream stream, CUstreamCaptureStatus *status), USUAL, stream,
    return tell_capture(stream, status, NULL, NULL))
API(cuStreamGetCaptureInfo_v3, (CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph,
    const CUgraphNode **dependencies, const CUgraphEdgeData **edges, size_t *count), USUAL, stream,
    if (dependencies) *dependencies = NULL;
    if (edges) *edges = NULL;
    if (count) *count = 0;
    return tell_capture(stream, status, id, graph))
/* To whom asks for it by its name today it is cuGraphInstantiate. */
CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
    ENTER_AS("cuGraphInstantiate", USUAL, graph);
    REQUIRE(flags < 16, ERROR_INVALID_VALUE);
    return instantiate(exec, graph);
}
API(cuGraphUpload, (CUgraphExec exec, CUstream stream), USUAL, stream,
    REQUIRE(launchable(exec), ERROR_INVALID_VALUE); return resolve(&stream))
API(cuGraphLaunch, (CUgraphExec exec, CUstream stream), USUAL, stream, return launch(exec, stream))
API(cuGraphExecDestroy, (CUgraphExec exec), INITIALISED | HEALTHY, exec, return destroy_exec(exec))
API(cuGraphDestroy, (CUgraph graph), INITIALISED | HEALTHY, graph, return destroy_graph(graph))
API(cuGraphGetNodes, (CUgraph graph, CUgraphNode *nodes, size_t *count), INITIALISED | HEALTHY, graph,
    return list_nodes(graph, nodes, count))
API(cuGraphNodeGetType, (CUgraphNode node, CUgraphNodeType *type), INITIALISED | HEALTHY, node,
    *type = TYPES[node->kind])

/* ---- What is not here ------------------------------------------------------------------------------------------- */

#ifndef CUDA_VERSION
static CUresult unsupported(void) {
    return ERROR_NOT_SUPPORTED;
}

#define NO(name) CUresult name(void) __attribute__((alias("unsupported")));
/* pycuda does not load without them. */
NO(cuArray3DCreate_v2) NO(cuArray3DGetDescriptor_v2) NO(cuArrayCreate_v2) NO(cuArrayDestroy)
NO(cuArrayGetDescriptor_v2) NO(cuCtxAttach) NO(cuCtxCreate_v2) NO(cuCtxCreate_v4) NO(cuCtxDisablePeerAccess)
NO(cuCtxEnablePeerAccess) NO(cuCtxGetApiVersion) NO(cuCtxGetCacheConfig) NO(cuCtxGetLimit) NO(cuCtxGetSharedMemConfig)
NO(cuCtxSetCacheConfig) NO(cuCtxSetLimit) NO(cuCtxSetSharedMemConfig) NO(cuDeviceCanAccessPeer)
NO(cuDeviceGetByPCIBusId) NO(cuFuncGetAttribute) NO(cuFuncSetAttribute) NO(cuFuncSetBlockShape)
NO(cuFuncSetCacheConfig) NO(cuFuncSetSharedMemConfig) NO(cuFuncSetSharedSize) NO(cuIpcCloseMemHandle)
NO(cuIpcGetEventHandle) NO(cuIpcGetMemHandle) NO(cuIpcOpenEventHandle) NO(cuIpcOpenMemHandle) NO(cuIpcOpenMemHandle_v2)
NO(cuLaunch) NO(cuLaunchGrid) NO(cuLaunchGridAsync) NO(cuLaunchKernel) NO(cuLinkAddData_v2) NO(cuLinkAddFile_v2)
NO(cuLinkComplete) NO(cuLinkCreate_v2) NO(cuLinkDestroy) NO(cuMemAllocManaged) NO(cuMemAllocPitch_v2)
NO(cuMemGetAddressRange_v2) NO(cuMemcpy2DAsync_v2) NO(cuMemcpy2DUnaligned_v2) NO(cuMemcpy2D_v2) NO(cuMemcpy3DAsync_v2)
NO(cuMemcpy3DPeer) NO(cuMemcpy3DPeerAsync) NO(cuMemcpy3D_v2) NO(cuMemcpyAtoA_v2) NO(cuMemcpyAtoD_v2)
NO(cuMemcpyAtoH_v2) NO(cuMemcpyDtoA_v2) NO(cuMemcpyHtoA_v2) NO(cuMemcpyPeer) NO(cuMemcpyPeerAsync) NO(cuMemsetD16Async)
NO(cuMemsetD16_v2) NO(cuMemsetD2D16Async) NO(cuMemsetD2D16_v2) NO(cuMemsetD2D32Async) NO(cuMemsetD2D32_v2)
NO(cuMemsetD2D8Async) NO(cuMemsetD2D8_v2) NO(cuModuleGetFunction) NO(cuModuleGetGlobal_v2) NO(cuModuleGetSurfRef)
NO(cuModuleGetTexRef) NO(cuModuleLoad) NO(cuModuleLoadData) NO(cuModuleLoadDataEx) NO(cuModuleUnload)
NO(cuParamSetSize) NO(cuParamSetTexRef) NO(cuParamSetf) NO(cuParamSeti) NO(cuParamSetv) NO(cuProfilerInitialize)
NO(cuProfilerStart) NO(cuProfilerStop) NO(cuStreamAttachMemAsync) NO(cuSurfRefGetArray) NO(cuSurfRefSetArray)
NO(cuTexRefCreate) NO(cuTexRefDestroy) NO(cuTexRefGetAddressMode) NO(cuTexRefGetAddress_v2) NO(cuTexRefGetArray)
NO(cuTexRefGetFilterMode) NO(cuTexRefGetFlags) NO(cuTexRefGetFormat) NO(cuTexRefSetAddress2D_v2)
NO(cuTexRefSetAddress2D_v3) NO(cuTexRefSetAddressMode) NO(cuTexRefSetAddress_v2) NO(cuTexRefSetArray)
NO(cuTexRefSetFilterMode) NO(cuTexRefSetFlags) NO(cuTexRefSetFormat)
#endif

/* cuda-bindings finds every function here, by its name without a version. */
CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *status) {
    static const char *const SUFFIXES[] = {"_v4", "_v3", "_v2", ""};
    (void)version, (void)flags;
    if (strcmp(symbol, "cuGraphInstantiate") == 0)
        symbol = "cuGraphInstantiateWithFlags";
    Dl_info own;
    dladdr((void *)(uintptr_t)cuInit, &own);
    void *library = dlopen(own.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    *function = NULL;
    for (size_t index = 0; !*function && index < sizeof SUFFIXES / sizeof *SUFFIXES; index++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", symbol, SUFFIXES[index]);
        *function = dlsym(library, name);
    }
    if (status)
        *status = *function ? 0 : 1;
    return *function ? SUCCESS : ERROR_NOT_FOUND;
}

CUresult cuGetProcAddress(const char *symbol, void **function, int version, cuuint64_t flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}

/* ---- What a test steers it with --------------------------------------------------------------------------------- */

void double_counters(Counters *counters) {
    pthread_mutex_lock(&driver.lock);
    *counters = driver.counters;
    pthread_mutex_unlock(&driver.lock);
}

void double_fail(const char *pattern, long nth, int result, int for_ever) {
    pthread_mutex_lock(&driver.lock);
    snprintf(driver.fault.pattern, sizeof driver.fault.pattern, "%s", pattern);
    driver.fault.countdown = nth;
    driver.fault.result = (CUresult)result;
    driver.fault.for_ever = for_ever != 0;
    driver.fault.failed = NULL;
    pthread_mutex_unlock(&driver.lock);
}

/* The call that was last made to fail, since it was ordered. */
const char *double_failed(void) {
    return driver.fault.failed;
}

/* The n-th graph that is instantiated from now on lacks its work of this kind. */
void double_leave_out(long nth, int kind) {
    driver.gap.countdown = nth;
    driver.gap.kind = kind;
}

/* A call by a library that stands on the driver: written down, and refused as the driver would refuse. */
CUresult double_foreign(const char *name, int needs_context) {
    Entered entered __attribute__((cleanup(leave))) = enter(name, needs_context ? USUAL : INITIALISED, NULL);
    return entered.refused;
}

/* For a host function that failed as a kernel would. */
void double_break(int result) {
    pthread_mutex_lock(&driver.lock);
    if (driver.broken == SUCCESS)
        driver.broken = (CUresult)result;
    pthread_mutex_unlock(&driver.lock);
}

int double_is_on_device(const void *address, size_t bytes) {
    pthread_mutex_lock(&driver.lock);
    bool found = block_on_device(address, bytes) != NULL;
    if (!found)
        complain("%zu bytes at %p are not the device's", bytes, address);
    pthread_mutex_unlock(&driver.lock);
    return found;
}

int double_is_capturing(CUstream stream) {
    return stream->capture != NULL;
}

typedef struct {
    uint64_t retained, stacked, endings, resets;
} Standing;

/* Of the primary context, and of this thread's stack of contexts. */
void double_standing(Standing *standing) {
    pthread_mutex_lock(&driver.lock);
    *standing = (Standing){driver.primary ? driver.primary->retained : 0, (uint64_t)depth, driver.endings,
                           driver.resets};
    pthread_mutex_unlock(&driver.lock);
}

void double_attribute(int attribute, int value) {
    driver.attributes[attribute] = value;
}

void double_memory(size_t bytes) {
    driver.memory = bytes;
}

const char *double_complaint(void) {
    return driver.complaint;
}

/* Copies the newest entries, oldest first, unless to nowhere; says how many. */
size_t double_journal(Entry *entries, size_t room) {
    pthread_mutex_lock(&driver.lock);
    uint64_t kept = driver.entries < JOURNAL ? driver.entries : JOURNAL;
    size_t count = kept < room ? kept : room;
    for (size_t index = 0; entries && index < count; index++)
        entries[index] = driver.journal[(driver.entries - count + index) % JOURNAL];
    pthread_mutex_unlock(&driver.lock);
    return count;
}

void double_forget(void) {
    pthread_mutex_lock(&driver.lock);
    memset(&driver.counters.calls, 0, sizeof driver.counters - offsetof(Counters, calls));
    driver.fault.pattern[0] = driver.complaint[0] = 0;
    driver.fault.failed = NULL;
    driver.entries = 0;
    pthread_mutex_unlock(&driver.lock);
}

/* What is alive stays so. */
__attribute__((constructor)) void double_reset(void) {
    double_forget();
    static const int DEFAULTS[][2] = {{10, 32}, {16, 8}, {CAN_MAP_HOST_MEMORY, 1}, {31, 1}, {40, 1},
                                      {41, 1},  {COMPUTE_MAJOR, 8}, {COMPUTE_MINOR, 7}, {99, 1}};
    pthread_mutex_lock(&driver.lock);
    memset(driver.attributes, 0, sizeof driver.attributes);
    for (size_t index = 0; index < sizeof DEFAULTS / sizeof *DEFAULTS; index++)
        driver.attributes[DEFAULTS[index][0]] = DEFAULTS[index][1];
    driver.memory = DEFAULT_MEMORY;
    driver.gap.countdown = 0;
    pthread_mutex_unlock(&driver.lock);
}

/* Be as in a process that has just begun, but for the stacks of other threads, which end with them. */
void double_restart(void) {
    pthread_mutex_lock(&driver.lock);
    driver.broken = ERROR_UNKNOWN; /* nobody is to blame for what is left */
    if (driver.primary)
        end_context(driver.primary);
    clear(&legacy.queue);
    memset(&driver.counters, 0, sizeof driver.counters);
    driver.endings = driver.resets = driver.stuck = 0;
    driver.broken = SUCCESS;
    driver.initialised = false;
    driver.streams = NULL;
    depth = 0;
    pthread_mutex_unlock(&driver.lock);
    double_reset();
}
