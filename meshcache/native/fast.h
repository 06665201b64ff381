/* A callable that does the plain cases itself and leaves the rest to another one. */
#ifndef MESHCACHE_FAST_H
#define MESHCACHE_FAST_H

#include <Python.h>
#include <stddef.h>
#include <structmember.h>

#include "keys.h"
#include "records.h"
#include "unpack.h"
#include "xxh3.h"

typedef struct {
    PyObject *fast;
    unpack_names names;
} module_state;

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *otherwise;
} fast;

static PyObject *
fast_otherwise(PyObject *self, PyObject *const *arguments, size_t count, PyObject *names)
{
    return PyObject_Vectorcall(((fast *)self)->otherwise, arguments, count, names);
}

/* (data) -> value, as codec/values.py */
static PyObject *
fast_decode(PyObject *self, PyObject *const *arguments, size_t count, PyObject *names)
{
    if (PyVectorcall_NARGS(count) == 1 && !names && PyBytes_CheckExact(arguments[0])) {
        const char *bytes = PyBytes_AS_STRING(arguments[0]);
        size_t size = (size_t)PyBytes_GET_SIZE(arguments[0]);
        module_state *state = PyType_GetModuleState(Py_TYPE(self));
        PyObject *value = unpack_plain((const uint8_t *)bytes, size, &state->names);
        if (value)
            return value;
    }
    return fast_otherwise(self, arguments, count, names);
}

/* (prefix, key) -> (full key, hash), as codec/keys.py */
static PyObject *
fast_key(PyObject *self, PyObject *const *arguments, size_t count, PyObject *names)
{
    if (PyVectorcall_NARGS(count) == 2 && !names && PyBytes_CheckExact(arguments[0])) {
        PyObject *prefix = arguments[0];
        PyObject *full =
            key_full(PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix), arguments[1]);
        if (full) {
            uint64_t hashed = xxh3((const uint8_t *)PyBytes_AS_STRING(full),
                                   (size_t)PyBytes_GET_SIZE(full));
            return Py_BuildValue("NK", full, hashed);
        }
    }
    return fast_otherwise(self, arguments, count, names);
}

/* Whether NAMES has at most the one that errors call a key by. */
static int
fast_named(PyObject *names)
{
    return !names ||
           (PyTuple_GET_SIZE(names) == 1 &&
            !PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "name"));
}

/* (value, *, name) -> bytes, as codec/keys.py */
static PyObject *
fast_encode(PyObject *self, PyObject *const *arguments, size_t count, PyObject *names)
{
    if (PyVectorcall_NARGS(count) == 1 && fast_named(names)) {
        PyObject *encoded = key_full("", 0, arguments[0]);
        if (encoded)
            return encoded;
    }
    return fast_otherwise(self, arguments, count, names);
}

/* (tenure, key, (value, version, expires)) -> bytes, as store/record.py */
static PyObject *
fast_record(PyObject *self, PyObject *const *arguments, size_t count, PyObject *names)
{
    if (PyVectorcall_NARGS(count) == 3 && !names) {
        PyObject *record = record_of(arguments[0], arguments[1], arguments[2]);
        if (record)
            return record;
        PyErr_Clear();
    }
    return fast_otherwise(self, arguments, count, names);
}

static PyObject *
fast_make(PyTypeObject *type, vectorcallfunc call, PyObject *otherwise)
{
    fast *self = (fast *)type->tp_alloc(type, 0);
    if (self) {
        self->call = call;
        self->otherwise = Py_NewRef(otherwise);
    }
    return (PyObject *)self;
}

static int
fast_traverse(fast *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->otherwise);
    return 0;
}

static void
fast_dealloc(fast *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->otherwise);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef fast_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(fast, call), READONLY, NULL},
    {"__wrapped__", T_OBJECT_EX, offsetof(fast, otherwise), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot fast_slots[] = {
    {Py_tp_doc, "Does the plain cases of a function, and leaves the rest to it."},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, fast_traverse},
    {Py_tp_dealloc, fast_dealloc},
    {Py_tp_members, fast_members},
    {0, NULL},
};

static PyType_Spec fast_spec = {
    .name = "meshcache.native._native.Fast",
    .basicsize = sizeof(fast),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = fast_slots,
};

#endif
