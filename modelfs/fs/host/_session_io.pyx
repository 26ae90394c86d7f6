# cython: language_level=3
"""Callbacks of libfuse's session: every request and every reply of the mount passes them.

pyfuse3 calls `fuse_session_mount` by way of the dynamic linker. This object, loaded before pyfuse3
and for all objects (RTLD_GLOBAL), has a function of that name, which the linker finds first. It
calls libfuse's own, and then libfuse's `fuse_session_custom_io` with callbacks that read a request
and write a reply as libfuse does. Nothing of libfuse or pyfuse3 is replaced, and nothing is copied.

The callbacks change two kinds of replies. That of INIT: flags that the kernel offers and libfuse
does not know are added, and others are removed. And that of an OPEN or CREATE whose reads and
writes the kernel is to pass to a backing file: it gets that file's number. See fuse(4), and
`fuse_init_out` and `fuse_open_out` in include/uapi/linux/fuse.h.

They change some requests as well, of kinds that pyfuse3 has no handler for. Each is *carried* by a
request for an extended attribute: the kind and the body stay here, and pyfuse3 calls the handler of
attributes, which takes them. That runs before the next request is received, so there is never more
than one. The reply to a request for an attribute is a header and any bytes, which is what the kernel
expects as a reply to these kinds, too. The number of the request stays the same. So nothing else is
special about such a request: errors, interrupts, the limit of requests at a time, and the end of
the mount are those of any other.

libfuse calls them on the thread that calls libfuse, without Python's lock; notifications, which
have no request, come on another one. So the callbacks use no Python, and only the thread of
requests changes their state.
"""

cdef extern from *:
    """
    #define FUSE_USE_VERSION 35
    #include <dlfcn.h>
    #include <fuse3/fuse_lowlevel.h>
    #include <linux/fuse.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/uio.h>
    #include <unistd.h>

    #define OFFERED_WORDS 5   /* of fuse_init_in: major, minor, max_readahead, flags, flags2 */
    #define REPLY_WORDS 16    /* of fuse_init_out */
    #define FLAGS 3
    #define FLAGS2 8
    #define STACK_DEPTH 9
    #define PASSTHROUGH (1ULL << 37)       /* FUSE_PASSTHROUGH, FOPEN_PASSTHROUGH: newer headers */
    #define OPEN_PASSTHROUGH (1U << 7)
    #define CARRIED_MAX 64    /* bytes of a body, and of a reply: fuse_copy_file_range_in has 56 */

    static int is_wanted = 0;
    static uint64_t added = 0, removed = 0;  /* flags; flags2 are the upper 32 bits */
    static uint64_t offered = 0, granted = 0;
    static uint64_t init_request = 0;        /* its number; 0: answered */
    static int device = -1;                  /* of the session */
    static uint64_t opened_handle = 0;       /* of the next reply that opens it */
    static int32_t backing = 0;              /* number of its backing file; 0: none */
    static uint64_t carriable = 0;           /* kinds of requests to carry, a bit for each */
    static uint32_t carried = 0;             /* the kind of this one, 0: it is not carried */
    static char carried_body[CARRIED_MAX];
    static size_t carried_size = 0;

    static ssize_t carry(struct fuse_in_header *header, ssize_t got)
    {
        static const char name[] = "carried";
        size_t size = got - sizeof *header;
        struct fuse_getxattr_in *attribute = (struct fuse_getxattr_in *)(header + 1);

        if (size > CARRIED_MAX)
            return got;  /* longer than any of today: libfuse replies ENOSYS */
        carried = header->opcode;
        carried_size = size;
        memcpy(carried_body, attribute, size);
        memset(attribute, 0, sizeof *attribute);
        attribute->size = CARRIED_MAX;  /* of the reply */
        memcpy(attribute + 1, name, sizeof name);
        header->opcode = FUSE_GETXATTR;
        header->len = sizeof *header + sizeof *attribute + sizeof name;
        return header->len;
    }

    static ssize_t receive(int fd, void *buffer, size_t size, void *data)
    {
        ssize_t got = read(fd, buffer, size);
        struct fuse_in_header *header = buffer;
        uint32_t *words = (uint32_t *)(header + 1);

        carried = 0;
        if (got >= (ssize_t)sizeof *header && header->opcode < 64
                && carriable >> header->opcode & 1)
            return carry(header, got);
        if (got >= (ssize_t)(sizeof *header + OFFERED_WORDS * sizeof *words)
                && header->opcode == FUSE_INIT) {
            init_request = header->unique;
            offered = words[3];
            if (words[3] & FUSE_INIT_EXT)
                offered |= (uint64_t)words[4] << 32;
        }
        return got;
    }

    static ssize_t send_init(int fd, struct iovec *parts)
    {
        struct fuse_out_header header = *(struct fuse_out_header *)parts[0].iov_base;
        uint32_t words[REPLY_WORDS] = {0};
        struct iovec changed[2] = {{&header, sizeof header}, {words, sizeof words}};

        memcpy(words, parts[1].iov_base, parts[1].iov_len);
        granted = (words[FLAGS] | ((uint64_t)words[FLAGS2] << 32)) & ~removed;
        granted |= added & offered;
        if (granted >> 32)
            granted |= FUSE_INIT_EXT;
        words[FLAGS] = (uint32_t)granted;
        words[FLAGS2] = granted >> 32;
        if (granted & PASSTHROUGH)
            words[STACK_DEPTH] = 1;  /* the backing file system is stacked on no other */
        header.len = sizeof header + sizeof words;
        return writev(fd, changed, 2);
    }

    static void back_opened(struct iovec *body)
    {
        size_t created = sizeof(struct fuse_entry_out);
        struct fuse_open_out *opened;

        if (body->iov_len == created + sizeof *opened)
            opened = (struct fuse_open_out *)((char *)body->iov_base + created);
        else if (body->iov_len == sizeof *opened)
            opened = body->iov_base;
        else
            return;
        if (opened->fh != opened_handle)
            return;
        opened->open_flags = OPEN_PASSTHROUGH;
        opened->padding = (uint32_t)backing;  /* `backing_id` in newer headers */
        backing = 0;
    }

    static ssize_t answer(int fd, struct iovec *parts, int count, void *data)
    {
        struct fuse_out_header *header = parts[0].iov_base;

        if (init_request && header->unique == init_request) {
            init_request = 0;
            if (!header->error && count == 2 && parts[1].iov_len <= REPLY_WORDS * 4)
                return send_init(fd, parts);
        }
        if (backing && header->unique && !header->error && count == 2)
            back_opened(&parts[1]);
        return writev(fd, parts, count);
    }

    int fuse_session_mount(struct fuse_session *session, const char *mountpoint)
    {
        static const struct fuse_custom_io callbacks = {.writev = answer, .read = receive};
        int (*real)(struct fuse_session *, const char *) = dlsym(RTLD_NEXT, "fuse_session_mount");
        int problem = real ? real(session, mountpoint) : -1;

        granted = 0;
        backing = 0;
        carried = 0;
        device = problem ? -1 : fuse_session_fd(session);
        if (!problem && (is_wanted || carriable))
            fuse_session_custom_io(session, &callbacks, device);
        return problem;
    }

    static void want(uint64_t more, uint64_t less)
    {
        is_wanted = more || less;
        added = more;
        removed = less;
    }

    static void back(uint64_t handle, int32_t number)
    {
        opened_handle = handle;
        backing = number;
    }
    """
    unsigned long long granted
    unsigned long long carriable
    unsigned int carried
    char *carried_body
    size_t carried_size
    int device
    void back(unsigned long long handle, int number)
    void want(unsigned long long more, unsigned long long less)


def change_init(unsigned long long add, unsigned long long remove):
    """Change the flags of the next mounts; with no flag, nothing passes the callbacks."""
    want(add, remove)


def granted_flags():
    """Return the flags of the reply at the last mount, `flags2` from bit 32 on; 0 before it."""
    return granted


def session_device():
    """Return the descriptor of /dev/fuse of the last mount, -1 before it."""
    return device


def carry_requests(unsigned long long kinds):
    """Carry the requests of these kinds, a bit for each opcode, from the next one on."""
    global carriable
    carriable = kinds


def take_carried():
    """Return the opcode and the body of the request that is being handled, if it is carried.

    For a handler of attributes, before its first wait; None in any other request.
    """
    global carried
    if not carried:
        return None
    opcode, carried = carried, 0
    return opcode, carried_body[:carried_size]


def back_next_open(unsigned long long handle, int number):
    """Give the reply that opens a handle, which is about to be sent, a backing file."""
    back(handle, number)
