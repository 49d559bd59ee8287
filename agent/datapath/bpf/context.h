/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a program is given of its packet. Programs of tc have struct __sk_buff; an object of others defines CONTEXT and
 * these four functions before anything else. */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifndef CONTEXT
#define CONTEXT struct __sk_buff

static __always_inline __u32 length_of(const CONTEXT *c)
{
	return c->len;
}

static __always_inline __u32 device_of(const CONTEXT *c)
{
	return c->ifindex;
}

static __always_inline __u64 clock_ns(void)
{
	return bpf_ktime_get_coarse_ns();
}

/* Bytes from the network header on, whatever link header there is. Negative if they are not there. */
static __always_inline long load_bytes(CONTEXT *c, __u32 offset, void *to, __u32 size)
{
	return bpf_skb_load_bytes_relative(c, offset, to, size, BPF_HDR_START_NET);
}
#endif
