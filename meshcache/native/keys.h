/* Keys of plain values, as codec/keys.py encodes them: None, bool, int of 64 bits,
 * float, str, bytes, and tuples and lists of those. All others are Python's to encode,
 * or to refuse by name. */
#ifndef MESHCACHE_KEYS_H
#define MESHCACHE_KEYS_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

/* As codec/keys.py has them. */
enum { KEY_BYTES = 65536, KEY_DEPTH = 32, KEY_LONG = 0xFF, KEY_LONG_SIZE = 4 };

enum { KEY_DIGITS = 18, KEY_ON_STACK = 512 };

typedef struct {
    uint8_t *start, *at, *end;
    uint8_t stack[KEY_ON_STACK];
} key_writer;

/* Make room for SIZE bytes more; 0 if that is more than a key may have. */
static int
key_room(key_writer *writer, size_t size)
{
    if ((size_t)(writer->end - writer->at) >= size)
        return 1;
    size_t used = (size_t)(writer->at - writer->start);
    if (size > 4 * KEY_BYTES || used + size > 4 * KEY_BYTES)
        return 0;
    size_t room = 2 * (used + size);
    int moved = writer->start != writer->stack;
    uint8_t *start = PyMem_Realloc(moved ? writer->start : NULL, room);
    if (!start)
        return 0;
    if (!moved)
        memcpy(start, writer->stack, used);
    writer->start = start;
    writer->at = start + used;
    writer->end = start + room;
    return 1;
}

static int
key_bytes(key_writer *writer, char tag, const void *bytes, Py_ssize_t size)
{
    if (!key_room(writer, (size_t)size + 1))
        return 0;
    *writer->at++ = (uint8_t)tag;
    memcpy(writer->at, bytes, (size_t)size);
    writer->at += size;
    return 1;
}

static int
key_int(key_writer *writer, PyObject *value)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow)
        return 0;
    unsigned long long rest = (unsigned long long)number;
    if (number < 0)
        rest = 0 - rest;
    char digits[KEY_DIGITS], *at = digits + KEY_DIGITS;
    do {
        *--at = "0123456789abcdef"[rest & 15];
    } while (rest >>= 4);
    if (number < 0)
        *--at = '-';
    return key_bytes(writer, 'i', at, digits + KEY_DIGITS - at);
}

static int
key_str(key_writer *writer, PyObject *value)
{
    if (PyUnicode_IS_COMPACT_ASCII(value))
        return key_bytes(writer, 's', PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value));
    PyObject *encoded = PyUnicode_AsEncodedString(value, "utf-8", "surrogatepass");
    if (!encoded)
        return 0;
    int done =
        key_bytes(writer, 's', PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded));
    Py_DECREF(encoded);
    return done;
}

static int
key_float(key_writer *writer, PyObject *value)
{
    char bytes[8];
    return PyFloat_Pack8(PyFloat_AS_DOUBLE(value), bytes, 0) == 0 &&
           key_bytes(writer, 'f', bytes, 8);
}

static int key_value(key_writer *writer, PyObject *value, int depth);

/* One value in a container: its length, then its key. */
static int
key_element(key_writer *writer, PyObject *value, int depth)
{
    size_t begin = (size_t)(writer->at - writer->start);
    if (!key_room(writer, 1 + KEY_LONG_SIZE))
        return 0;
    writer->at++;
    if (!key_value(writer, value, depth) || !key_room(writer, KEY_LONG_SIZE))
        return 0;
    uint8_t *to = writer->start + begin;
    size_t size = (size_t)(writer->at - to) - 1;
    if (size < KEY_LONG) {
        *to = (uint8_t)size;
        return 1;
    }
    memmove(to + 1 + KEY_LONG_SIZE, to + 1, size);
    writer->at += KEY_LONG_SIZE;
    *to++ = KEY_LONG;
    for (int shift = 8 * (KEY_LONG_SIZE - 1); shift >= 0; shift -= 8)
        *to++ = (uint8_t)(size >> shift);
    return 1;
}

/* A tuple or a list. Nothing here runs Python, so that none of them can change. */
static int
key_elements(key_writer *writer, char tag, PyObject *values, int depth)
{
    if (depth >= KEY_DEPTH || !key_bytes(writer, tag, "", 0))
        return 0;
    PyObject **items = PySequence_Fast_ITEMS(values);
    Py_ssize_t count = PySequence_Fast_GET_SIZE(values);
    for (Py_ssize_t each = 0; each < count; each++)
        if (!key_element(writer, items[each], depth + 1))
            return 0;
    return 1;
}

static int
key_value(key_writer *writer, PyObject *value, int depth)
{
    if (PyLong_CheckExact(value))
        return key_int(writer, value);
    if (PyUnicode_CheckExact(value))
        return key_str(writer, value);
    if (PyTuple_CheckExact(value))
        return key_elements(writer, '(', value, depth);
    if (value == Py_None)
        return key_bytes(writer, 'n', "", 0);
    if (PyBool_Check(value))
        return key_bytes(writer, value == Py_True ? 'T' : 'F', "", 0);
    if (PyFloat_CheckExact(value))
        return key_float(writer, value);
    if (PyBytes_CheckExact(value))
        return key_bytes(writer, 'b', PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
#ifndef Py_GIL_DISABLED
    if (PyList_CheckExact(value))
        return key_elements(writer, '[', value, depth);
#endif
    return 0;
}

/* PREFIX and the key in one, or NULL: Python knows. No error is set. */
static PyObject *
key_full(const char *prefix, Py_ssize_t size, PyObject *key)
{
    key_writer writer;
    writer.start = writer.at = writer.stack;
    writer.end = writer.stack + KEY_ON_STACK;
    PyObject *full = NULL;
    if (key_room(&writer, (size_t)size)) {
        memcpy(writer.at, prefix, (size_t)size);
        writer.at += size;
        if (key_value(&writer, key, 0) &&
            writer.at - writer.start - size <= KEY_BYTES)
            full = PyBytes_FromStringAndSize((char *)writer.start,
                                             writer.at - writer.start);
    }
    if (writer.start != writer.stack)
        PyMem_Free(writer.start);
    if (!full)
        PyErr_Clear();
    return full;
}

#endif
