/* Answers the instruction cpuid without AVX-512, AVX-VNNI and AMX, in a library to be preloaded.

   In copies of the libraries that are measured each cpuid is replaced by 0f 0a, which is as long and no instruction, so
   that it raises SIGILL; see without_avx512.py. No compiler writes those bytes: a trap of a library's own (ud2) ends the
   process as it always does. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

static void answer(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
    unsigned leaf = (unsigned)registers[REG_RAX], part = (unsigned)registers[REG_RCX], a, b, c, d;
    (void)info;
    if (instruction[0] != 0x0f || instruction[1] != 0x0a) {
        signal(number, SIG_DFL);
        return;
    }
    __cpuid_count(leaf, part, a, b, c, d);
    if (leaf == 7 && part == 0) {
        /* f, dq, ifma, pf, er, cd, bw, vl; vbmi, vbmi2, vnni, bitalg, vpopcntdq; 4vnniw, 4fmaps, vp2intersect, amx, fp16 */
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    } else if (leaf == 7 && part == 1) {
        /* avx_vnni, avx512_bf16, amx_fp16, avx_ifma; avx_vnni_int8, avx_ne_convert, avx_vnni_int16, avx10 */
        a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));
        d &= ~(BIT(4) | BIT(5) | BIT(10) | BIT(19));
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void install(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, NULL);
}
