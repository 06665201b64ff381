/* Reading a key out of an arena: what store/view.py does, step by step. */
#ifndef MESHCACHE_ARENA_H
#define MESHCACHE_ARENA_H

#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "xxh3.h"

#if SIZE_MAX < UINT64_MAX
#error "the arithmetic here takes a size_t of 64 bits; Python does it on others"
#endif

enum {
    ARENA_WAYS = 16,
    ARENA_STAMP_AT = 12,  /* From an entry's begin to what its checksum is of, */
    ARENA_STAMP = 16,     /* which begins with version and expiry. */
    ARENA_FIXED = 28,
    ARENA_KEY = 0xFFFF,
    ARENA_ON_STACK = 1024,
    ARENA_TRIES = 2
};

typedef struct {
    Py_buffer memory;
    uint64_t sets;
    size_t offsets_at, prints_at, uses_at, units_at, tenures_at, void_at, cleared_at;
    int partition_shift;
    uint8_t use_max, envelope;
    PyObject *covers_key, *covers_tags, *entry, *torn;
} arena;

typedef struct {
    const uint8_t *body;  /* Version, expiry, key, value: a copy. */
    size_t size;
    uint8_t *heap;        /* What is to be freed of it. */
    uint8_t *use;
    uint8_t stack[ARENA_ON_STACK];
} arena_copy;

enum arena_found { ARENA_NONE, ARENA_COPIED, ARENA_TORN, ARENA_ERROR };

static inline uint64_t
arena_word(const arena *self, size_t at)
{
    return __atomic_load_n((const uint64_t *)((uint8_t *)self->memory.buf + at),
                           __ATOMIC_ACQUIRE);
}

/* Copy the entry at OFFSET if it is the key's, and judge it by the copy. */
static enum arena_found
arena_take(const arena *self, arena_copy *copy, uint32_t offset, const uint8_t *key,
           size_t length, uint8_t tenure)
{
    const uint8_t *memory = self->memory.buf;
    size_t total = (size_t)self->memory.len, start = self->units_at + (size_t)8 * offset;
    if (start + ARENA_FIXED + length > total)
        return ARENA_NONE;
    uint64_t meta = arena_word(self, start);
    uint32_t checksum = __atomic_load_n((const uint32_t *)(memory + start + 8),
                                        __ATOMIC_ACQUIRE);
    /* The number of a sealed partition is no entry's. */
    if ((uint32_t)meta != (tenure | (uint32_t)length << 16))
        return ARENA_NONE;
    const uint8_t *body = memory + start + ARENA_STAMP_AT;
    if (memcmp(body + ARENA_STAMP, key, length) != 0)
        return ARENA_NONE;
    size_t size = ARENA_STAMP + length + (size_t)(meta >> 32);
    if (size > total - start - ARENA_STAMP_AT)
        return ARENA_TORN;
    uint8_t *to = copy->stack;
    if (size > ARENA_ON_STACK) {
        to = copy->heap = PyMem_Malloc(size);
        if (!to) {
            PyErr_NoMemory();
            return ARENA_ERROR;
        }
    }
    memcpy(to, body, size);
    /* The copy is judged, not what it was made of, and marks are looked at after. */
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    copy->body = to;
    copy->size = size;
    if ((uint32_t)xxh3(to, size) + (uint32_t)meta == checksum &&
        !memcmp(to + ARENA_STAMP, key, length))
        return ARENA_COPIED;
    PyMem_Free(copy->heap);
    copy->heap = NULL;
    return ARENA_TORN;
}

static enum arena_found
arena_probe(const arena *self, arena_copy *copy, uint64_t hashed, const uint8_t *key,
            size_t length)
{
    uint8_t *memory = self->memory.buf;
    size_t first = (size_t)(hashed % self->sets) * ARENA_WAYS;
    const uint16_t *prints = (const uint16_t *)(memory + self->prints_at) + first;
    const uint32_t *offsets = (const uint32_t *)(memory + self->offsets_at) + first;
    uint16_t print = (uint16_t)hashed ? (uint16_t)hashed : 1;
    for (size_t way = 0; way < ARENA_WAYS; way++) {
        if (__atomic_load_n(prints + way, __ATOMIC_ACQUIRE) != print)
            continue;
        uint32_t offset = __atomic_load_n(offsets + way, __ATOMIC_ACQUIRE);
        if (!offset)
            continue;
        /* Before the copy: what is returned was not sealed at this moment. */
        uint8_t tenure = __atomic_load_n(
            memory + self->tenures_at + (hashed >> self->partition_shift),
            __ATOMIC_ACQUIRE);
        enum arena_found found =
            arena_take(self, copy, offset, key, length, tenure);
        if (found != ARENA_NONE) {
            copy->use = memory + self->uses_at + first + way;
            return found;
        }
    }
    return ARENA_NONE;
}

/* As store/index.py: the key's slot and offset; 0 is for a ghost, and -1 for no slot. */
static PyObject *
arena_find(const arena *self, PyObject *key, uint64_t hashed)
{
    const uint8_t *memory = self->memory.buf;
    size_t length = (size_t)PyBytes_GET_SIZE(key), total = (size_t)self->memory.len;
    size_t first = (size_t)(hashed % self->sets) * ARENA_WAYS;
    const uint16_t *prints = (const uint16_t *)(memory + self->prints_at) + first;
    const uint32_t *offsets = (const uint32_t *)(memory + self->offsets_at) + first;
    uint16_t print = (uint16_t)hashed ? (uint16_t)hashed : 1;
    Py_ssize_t ghost = -1;
    for (size_t way = 0; way < ARENA_WAYS; way++) {
        if (__atomic_load_n(prints + way, __ATOMIC_RELAXED) != print)
            continue;
        /* Once: it may change, and what is returned is to be what was checked. */
        uint32_t offset = __atomic_load_n(offsets + way, __ATOMIC_RELAXED);
        size_t start = self->units_at + (size_t)8 * offset;
        if (!offset)
            ghost = (Py_ssize_t)(first + way);
        else if (start + ARENA_FIXED + length <= total &&
                 (arena_word(self, start) >> 16 & ARENA_KEY) == length &&
                 !memcmp(memory + start + ARENA_FIXED, PyBytes_AS_STRING(key), length))
            return Py_BuildValue("nI", (Py_ssize_t)(first + way), offset);
    }
    return Py_BuildValue("ni", ghost, 0);
}

static int
arena_asks(PyObject *covers, uint64_t version, PyObject *second)
{
    PyObject *number = PyLong_FromUnsignedLongLong(version);
    if (!number)
        return -1;
    PyObject *arguments[] = {number, second};
    PyObject *answer = PyObject_Vectorcall(covers, arguments, 2, NULL);
    Py_DECREF(number);
    if (!answer)
        return -1;
    int covered = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return covered;
}

/* Whether its cache was cleared or one of its tags invalidated since; -1 on error. */
static int
arena_is_void(const arena *self, uint64_t version, PyObject *key, PyObject *value)
{
    if (version >= arena_word(self, self->void_at))
        return 0;
    if (version < arena_word(self, self->cleared_at)) {
        int covered = arena_asks(self->covers_key, version, key);
        if (covered)
            return covered;
    }
    if (PyBytes_GET_SIZE(value) &&
        (uint8_t)PyBytes_AS_STRING(value)[0] == self->envelope)
        return arena_asks(self->covers_tags, version, value);
    return 0;
}

/* What the copy holds if it still counts, as an Entry; else None. */
static PyObject *
arena_judge(const arena *self, const arena_copy *copy, PyObject *key, double now)
{
    uint64_t version;
    double expires;
    memcpy(&version, copy->body, sizeof version);
    memcpy(&expires, copy->body + 8, sizeof expires);
    if (!(expires > now))
        Py_RETURN_NONE;
    size_t before = ARENA_STAMP + (size_t)PyBytes_GET_SIZE(key);
    PyObject *value = PyBytes_FromStringAndSize((const char *)copy->body + before,
                                                (Py_ssize_t)(copy->size - before));
    if (!value)
        return NULL;
    int dead = arena_is_void(self, version, key, value);
    if (dead) {
        Py_DECREF(value);
        return dead < 0 ? NULL : Py_NewRef(Py_None);
    }
    /* Threads and processes may lose each other's counts; none matters. */
    uint8_t use = __atomic_load_n(copy->use, __ATOMIC_RELAXED);
    if (use < self->use_max)
        __atomic_store_n(copy->use, use + 1, __ATOMIC_RELAXED);
    PyTypeObject *type = (PyTypeObject *)self->entry;
    PyObject *entry = type->tp_alloc(type, 3);
    if (!entry) {
        Py_DECREF(value);
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030E0000
    ((PyTupleObject *)entry)->ob_hash = -1; /* tp_alloc leaves 0, which is a hash. */
#endif
    PyTuple_SET_ITEM(entry, 0, value);
    PyTuple_SET_ITEM(entry, 1, PyLong_FromUnsignedLongLong(version));
    PyTuple_SET_ITEM(entry, 2, PyFloat_FromDouble(expires));
    if (!PyTuple_GET_ITEM(entry, 1) || !PyTuple_GET_ITEM(entry, 2))
        Py_CLEAR(entry);
    return entry;
}

static PyObject *
arena_read(const arena *self, PyObject *key, uint64_t hashed, double now)
{
    arena_copy copy;
    copy.heap = NULL;
    const uint8_t *bytes = (const uint8_t *)PyBytes_AS_STRING(key);
    size_t length = (size_t)PyBytes_GET_SIZE(key);
    if (length > ARENA_KEY)
        Py_RETURN_NONE;
    for (int tries = 0; tries < ARENA_TRIES; tries++) {
        enum arena_found found = arena_probe(self, &copy, hashed, bytes, length);
        if (found == ARENA_ERROR)
            return NULL;
        if (found == ARENA_NONE)
            Py_RETURN_NONE;
        if (found == ARENA_COPIED) {
            PyObject *entry = arena_judge(self, &copy, key, now);
            PyMem_Free(copy.heap);
            return entry;
        }
    }
    return PyObject_CallNoArgs(self->torn);
}

#endif
