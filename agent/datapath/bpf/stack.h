/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet in the node's stack, as a program of netfilter (Linux 6.4) is given it. Types are the kernel's, as far as they
 * are read: the loader finds where their fields are in the kernel that runs. */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct net_device { int ifindex; };
struct sk_buff { unsigned int len; __u32 priority, mark; unsigned long _nfct; };
struct nf_hook_state { struct net_device *in; };
struct bpf_nf_ctx { const struct nf_hook_state *state; struct sk_buff *skb; };
union nf_inet_addr { __be32 ip; };
union nf_conntrack_man_proto { __be16 all; };
struct nf_conntrack_man { union nf_inet_addr u3; union nf_conntrack_man_proto u; };
struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct { union nf_inet_addr u3; union { __be16 all; } u; } dst;
};
struct nf_conntrack_tuple_hash { struct nf_conntrack_tuple tuple; };
struct nf_conn { struct nf_conntrack_tuple_hash tuplehash[2]; };
#pragma clang attribute pop

extern int bpf_dynptr_from_skb(struct sk_buff *skb, __u64 flags, struct bpf_dynptr *made) __ksym;

#define CONTEXT struct bpf_nf_ctx
enum netfilter_verdict { NF_DROP = 0, NF_ACCEPT = 1 };

static __always_inline __u32 length_of(const CONTEXT *c)
{
	return c->skb->len;
}

static __always_inline __u32 device_of(const CONTEXT *c)
{
	return c->state->in ? c->state->in->ifindex : 0;
}

static __always_inline __u64 clock_ns(void)
{
	return bpf_ktime_get_ns();	/* there is no coarse one for netfilter */
}

/* The packet begins with its network header here. */
static __always_inline long load_bytes(CONTEXT *c, __u32 offset, void *to, __u32 size)
{
	struct bpf_dynptr packet;
	if (bpf_dynptr_from_skb(c->skb, 0, &packet))
		return -1;
	return bpf_dynptr_read(to, size, &packet, offset, 0);
}
