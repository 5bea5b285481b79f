// pod MASK COMMAND…: runs a command as a pod without privileges does. It keeps the capabilities of MASK (hexadecimal) and
// no others, now and for whatever it starts; mounts and namespaces are refused by a filter of system calls, as the default
// one of container runtimes refuses them.
#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

#define REFUSE(number) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

static void must(int failed, const char *what) {
    if (failed) {
        perror(what);
        exit(99);
    }
}

int main(int argc, char **argv) {
    if (argc < 3) return 98;
    unsigned long long mask = strtoull(argv[1], NULL, 16);
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        REFUSE(SYS_mount),
        REFUSE(SYS_umount2),
        REFUSE(SYS_pivot_root),
        REFUSE(SYS_unshare),
        REFUSE(SYS_setns),
        REFUSE(428 /* open_tree */),
        REFUSE(429 /* move_mount */),
        REFUSE(430 /* fsopen */),
        REFUSE(431 /* fsconfig */),
        REFUSE(432 /* fsmount */),
        REFUSE(442 /* mount_setattr */),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 435 /* clone3 */, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x7e020000 /* CLONE_NEW* */, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
    for (int one = 0; one < 64; one++)
        if (!(mask >> one & 1) && prctl(PR_CAPBSET_DROP, one) && errno != EINVAL) must(1, "bounding set");
    must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient set");
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {
        {(unsigned)mask, (unsigned)mask, 0},
        {(unsigned)(mask >> 32), (unsigned)(mask >> 32), 0},
    };
    must(syscall(SYS_capset, &header, data), "capset");
    execv(argv[2], argv + 2);
    must(1, argv[2]);
}
