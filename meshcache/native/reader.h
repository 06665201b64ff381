/* The callable that reads an arena: (key, hashed, now) -> Entry | None. */
#ifndef MESHCACHE_READER_H
#define MESHCACHE_READER_H

#include <Python.h>
#include <stddef.h>
#include <structmember.h>

#include "arena.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    arena arena;
} reader;

static PyObject *
reader_call(PyObject *self, PyObject *const *arguments, size_t count, PyObject *names)
{
    if (PyVectorcall_NARGS(count) != 3 || names || !PyBytes_CheckExact(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "a reader takes a key of bytes, hash and time");
        return NULL;
    }
    uint64_t hashed = PyLong_AsUnsignedLongLong(arguments[1]);
    if (hashed == (uint64_t)-1 && PyErr_Occurred())
        return NULL;
    double now = PyFloat_AsDouble(arguments[2]);
    if (now == -1.0 && PyErr_Occurred())
        return NULL;
    return arena_read(&((reader *)self)->arena, arguments[0], hashed, now);
}

static PyObject *
reader_find(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_CheckExact(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "find takes a key of bytes and its hash");
        return NULL;
    }
    uint64_t hashed = PyLong_AsUnsignedLongLong(arguments[1]);
    if (hashed == (uint64_t)-1 && PyErr_Occurred())
        return NULL;
    return arena_find(&((reader *)self)->arena, arguments[0], hashed);
}

/* Whether SIZE bytes AT some place are all within the memory. */
static int
reader_holds(const arena *arena, size_t at, size_t size)
{
    size_t total = (size_t)arena->memory.len;
    return at <= total && size <= total - at;
}

static int
reader_is_whole(const arena *arena)
{
    size_t partitions = (size_t)1 << (64 - arena->partition_shift);
    if (!arena->sets || arena->sets > (uint64_t)arena->memory.len / ARENA_WAYS)
        return 0;
    size_t slots = (size_t)arena->sets * ARENA_WAYS;
    return reader_holds(arena, arena->offsets_at, 4 * slots) &&
           reader_holds(arena, arena->prints_at, 2 * slots) &&
           reader_holds(arena, arena->uses_at, slots) &&
           reader_holds(arena, arena->tenures_at, partitions) &&
           reader_holds(arena, arena->void_at, 8) &&
           reader_holds(arena, arena->cleared_at, 8) &&
           reader_holds(arena, arena->units_at, 0) &&
           !(((size_t)arena->memory.buf | arena->units_at | arena->void_at |
              arena->cleared_at) % 8) &&
           !(arena->offsets_at % 4) && !(arena->prints_at % 2);
}

static PyObject *
reader_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    static char *known[] = {
        "memory", "sets", "offsets_at", "prints_at", "uses_at", "units_at",
        "tenures_at", "void_at", "cleared_at", "partition_bits", "use_max",
        "envelope", "covers_key", "covers_tags", "entry", "torn", NULL,
    };
    arena parsed = {0};
    unsigned long long sets;
    Py_ssize_t at[7];
    unsigned char bits;
    if (!PyArg_ParseTupleAndKeywords(
            arguments, names, "w*$KnnnnnnnbbbOOO!O:Reader", known, &parsed.memory,
            &sets, at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6, &bits,
            &parsed.use_max, &parsed.envelope, &parsed.covers_key,
            &parsed.covers_tags, &PyType_Type, &parsed.entry, &parsed.torn))
        return NULL;
    parsed.sets = sets;
    parsed.offsets_at = (size_t)at[0];
    parsed.prints_at = (size_t)at[1];
    parsed.uses_at = (size_t)at[2];
    parsed.units_at = (size_t)at[3];
    parsed.tenures_at = (size_t)at[4];
    parsed.void_at = (size_t)at[5];
    parsed.cleared_at = (size_t)at[6];
    parsed.partition_shift = 64 - bits;
    reader *self = NULL;
    if (bits < 1 || bits > 32 || !reader_is_whole(&parsed) ||
        !PyType_IsSubtype((PyTypeObject *)parsed.entry, &PyTuple_Type))
        PyErr_SetString(PyExc_ValueError, "no arena could lie in this memory like that");
    else
        self = (reader *)type->tp_alloc(type, 0);
    if (!self) {
        PyBuffer_Release(&parsed.memory);
        return NULL;
    }
    Py_INCREF(parsed.covers_key);
    Py_INCREF(parsed.covers_tags);
    Py_INCREF(parsed.entry);
    Py_INCREF(parsed.torn);
    self->call = reader_call;
    self->arena = parsed;
    return (PyObject *)self;
}

static int
reader_traverse(reader *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->arena.memory.obj);
    Py_VISIT(self->arena.covers_key);
    Py_VISIT(self->arena.covers_tags);
    Py_VISIT(self->arena.entry);
    Py_VISIT(self->arena.torn);
    return 0;
}

static void
reader_dealloc(reader *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->arena.covers_key);
    Py_CLEAR(self->arena.covers_tags);
    Py_CLEAR(self->arena.entry);
    Py_CLEAR(self->arena.torn);
    PyBuffer_Release(&self->arena.memory);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef reader_methods[] = {
    {"find", (PyCFunction)(void (*)(void))reader_find, METH_FASTCALL,
     "Return slot and offset of a key, given with its hash; for the one writer."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef reader_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(reader, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, "Reads keys out of an arena: (key, hashed, now) -> Entry | None."},
    {Py_tp_new, reader_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, reader_traverse},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_members, reader_members},
    {Py_tp_methods, reader_methods},
    {0, NULL},
};

static PyType_Spec reader_spec = {
    .name = "meshcache.native._native.Reader",
    .basicsize = sizeof(reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reader_slots,
};

#endif
