/* msgpack to objects, for what msgpack has: everything but extensions.
 *
 * What is not plain (an extension, bytes that are no encoding, too deep a nest) is left
 * to Python, which decodes from the beginning or explains what is wrong with it. So
 * NULL means "not plain", whatever error is set, and `unpack_plain` leaves none.
 *
 * https://github.com/msgpack/msgpack/blob/master/spec.md
 */
#ifndef MESHCACHE_UNPACK_H
#define MESHCACHE_UNPACK_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "xxh3.h"

enum { UNPACK_DEPTH = 32, UNPACK_NAMES = 512, UNPACK_NAME = 32 };

/* Names of fields that were seen lately: the same few are in all values of a kind. */
typedef struct {
    PyObject *seen[UNPACK_NAMES];
} unpack_names;

typedef struct {
    const uint8_t *at, *end;
    unpack_names *names;
    int depth;
} unpack_state;

static PyObject *unpack_value(unpack_state *state);

static inline int
unpack_number(unpack_state *state, size_t size, uint64_t *number)
{
    if ((size_t)(state->end - state->at) < size)
        return 0;
    *number = 0;
    for (size_t each = 0; each < size; each++)
        *number = *number << 8 | *state->at++;
    return 1;
}

/* The next SIZE bytes, or NULL: there are not so many. */
static inline const char *
unpack_bytes(unpack_state *state, uint64_t size)
{
    if ((uint64_t)(state->end - state->at) < size)
        return NULL;
    const char *bytes = (const char *)state->at;
    state->at += size;
    return bytes;
}

static PyObject *
unpack_str(unpack_state *state, uint64_t size)
{
    const char *text = unpack_bytes(state, size);
    return text ? PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, "surrogatepass") : NULL;
}

static PyObject *
unpack_bin(unpack_state *state, uint64_t size)
{
    const char *bytes = unpack_bytes(state, size);
    return bytes ? PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size) : NULL;
}

static PyObject *
unpack_array(unpack_state *state, uint64_t size)
{
    /* Each item takes a byte at least: nothing is allocated for more than there are. */
    if ((uint64_t)(state->end - state->at) < size || state->depth >= UNPACK_DEPTH)
        return NULL;
    PyObject *list = PyList_New((Py_ssize_t)size);
    if (!list)
        return NULL;
    /* Nobody shall see it half made, not even whoever looks at all objects. */
    PyObject_GC_UnTrack(list);
    state->depth++;
    for (uint64_t each = 0; each < size; each++) {
        PyObject *item = unpack_value(state);
        if (!item) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)each, item);
    }
    PyObject_GC_Track(list);
    state->depth--;
    return list;
}

/* The short ASCII str that comes next, one object for all that are equal; NULL without
 * an error if something else does. */
static PyObject *
unpack_name(unpack_state *state)
{
    size_t size = *state->at - 0xA0U;
    if (size >= UNPACK_NAME || (size_t)(state->end - state->at) <= size)
        return NULL;
    const char *text = (const char *)state->at + 1;
    PyObject **place = &state->names->seen[xxh3(state->at, size + 1) % UNPACK_NAMES];
    PyObject *name = *place;
    if (!name || (size_t)PyUnicode_GET_LENGTH(name) != size ||
        memcmp(PyUnicode_DATA(name), text, size)) {
        name = PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, "surrogatepass");
        if (!name)
            return NULL;
#if PY_VERSION_HEX < 0x030C0000 || PY_VERSION_HEX >= 0x030D0000
        /* So that it is the very object of the application's own literals. What 3.12
         * has interned stays for ever. */
        PyUnicode_InternInPlace(&name);
#endif
        state->at += 1 + size;
        if (PyUnicode_IS_COMPACT_ASCII(name))
            Py_XSETREF(*place, Py_NewRef(name));
        return name;
    }
    state->at += 1 + size;
    return Py_NewRef(name);
}

static PyObject *
unpack_key(unpack_state *state)
{
#ifndef Py_GIL_DISABLED
    if (state->at < state->end && *state->at >= 0xA0) {
        PyObject *name = unpack_name(state);
        if (name || PyErr_Occurred())
            return name;
    }
#endif
    return unpack_value(state);
}

static int
unpack_pair(unpack_state *state, PyObject *dict)
{
    PyObject *key = unpack_key(state);
    if (!key)
        return 0;
    PyObject *item = unpack_value(state);
    int done = item && PyDict_SetItem(dict, key, item) == 0;
    Py_DECREF(key);
    Py_XDECREF(item);
    return done;
}

static PyObject *
unpack_map(unpack_state *state, uint64_t size)
{
    if ((uint64_t)(state->end - state->at) / 2 < size || state->depth >= UNPACK_DEPTH)
        return NULL;
    PyObject *dict = PyDict_New();
    if (!dict)
        return NULL;
    state->depth++;
    for (uint64_t each = 0; each < size; each++) {
        if (!unpack_pair(state, dict)) {
            Py_DECREF(dict);
            return NULL;
        }
    }
    state->depth--;
    return dict;
}

static PyObject *
unpack_float(unpack_state *state, size_t size)
{
    const char *bytes = unpack_bytes(state, size);
    if (!bytes)
        return NULL;
    double number = size == 4 ? PyFloat_Unpack4(bytes, 0) : PyFloat_Unpack8(bytes, 0);
    return PyFloat_FromDouble(number);
}

static PyObject *
unpack_signed(unpack_state *state, size_t size)
{
    uint64_t number;
    if (!unpack_number(state, size, &number))
        return NULL;
    unsigned unused = 64 - 8 * (unsigned)size;
    return PyLong_FromLongLong((int64_t)(number << unused) >> unused);
}

static PyObject *
unpack_sized(unpack_state *state, size_t size,
             PyObject *(*unpack)(unpack_state *, uint64_t))
{
    uint64_t number;
    return unpack_number(state, size, &number) ? unpack(state, number) : NULL;
}

static PyObject *
unpack_value(unpack_state *state)
{
    if (state->at >= state->end)
        return NULL;
    uint8_t head = *state->at++;
    uint64_t number;
    if (head < 0x80)
        return PyLong_FromLong(head);
    if (head < 0x90)
        return unpack_map(state, head & 0x0F);
    if (head < 0xA0)
        return unpack_array(state, head & 0x0F);
    if (head < 0xC0)
        return unpack_str(state, head & 0x1F);
    if (head >= 0xE0)
        return PyLong_FromLong((int8_t)head);
    switch (head) {
    case 0xC0:
        return Py_NewRef(Py_None);
    case 0xC2:
        return Py_NewRef(Py_False);
    case 0xC3:
        return Py_NewRef(Py_True);
    case 0xC4: case 0xC5: case 0xC6:
        return unpack_sized(state, (size_t)1 << (head - 0xC4), unpack_bin);
    case 0xCA: case 0xCB:
        return unpack_float(state, (size_t)4 << (head - 0xCA));
    case 0xCC: case 0xCD: case 0xCE: case 0xCF:
        if (!unpack_number(state, (size_t)1 << (head - 0xCC), &number))
            return NULL;
        return PyLong_FromUnsignedLongLong(number);
    case 0xD0: case 0xD1: case 0xD2: case 0xD3:
        return unpack_signed(state, (size_t)1 << (head - 0xD0));
    case 0xD9: case 0xDA: case 0xDB:
        return unpack_sized(state, (size_t)1 << (head - 0xD9), unpack_str);
    case 0xDC: case 0xDD:
        return unpack_sized(state, (size_t)2 << (head - 0xDC), unpack_array);
    case 0xDE: case 0xDF:
        return unpack_sized(state, (size_t)2 << (head - 0xDE), unpack_map);
    default:
        return NULL;
    }
}

/* The value whose bytes these are; NULL without an error if that is not plain. */
static PyObject *
unpack_plain(const uint8_t *bytes, size_t size, unpack_names *names)
{
    unpack_state state = {bytes, bytes + size, names, 0};
    PyObject *value = unpack_value(&state);
    if (value && state.at != state.end)
        Py_CLEAR(value);
    if (!value)
        PyErr_Clear();
    return value;
}

#endif
