/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which addresses are the node's own, by its routes. */
#pragma once
#include "node_side.h"

#define FAMILY_INET 2
#define FAMILY_INET6 10

/* What is not the node's for all its routes say may be led to a process of the node by its stack, which translates the
 * addresses of Services: mesh_delivered judges it then. skb->priority says so until the packet is forwarded. */
inlined void pass_on(struct __sk_buff *skb, __u32 by)
{
	skb->priority = PASSED_ON | by;
}

/* What is not passed on is kept, also where there is no route, or the device passes nothing on. */
inlined int is_kept(long r)
{
	return r < 0 || r == BPF_FIB_LKUP_RET_NOT_FWDED || r == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

#ifdef IPV6_PACKETS
inlined int is_multicast(ip_address address)
{
	return (address.words[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

outline int is_node_address(struct __sk_buff *skb, address_argument given)
{
	ip_address address = value_of(given);
	struct bpf_fib_lookup fib = { .family = FAMILY_INET6, .ifindex = skb->ifindex };
	__builtin_memcpy(fib.ipv6_dst, &address, sizeof(address));
	return is_multicast(address) || is_kept(bpf_fib_lookup(skb, &fib, sizeof(fib), 0));
}

#define is_of_node(skb, address) is_node_address(skb, as_argument(address))
#else
#define MULTICAST 0xe	/* first four bits */

outline int is_of_node(struct __sk_buff *skb, __be32 address)
{
	struct bpf_fib_lookup fib = { .family = FAMILY_INET, .ifindex = skb->ifindex, .ipv4_dst = address };
	if (address == CONFIG.node_address || bpf_ntohl(address) >> 28 == MULTICAST || !~address)
		return 1;	/* also what is for everybody */
	return is_kept(bpf_fib_lookup(skb, &fib, sizeof(fib), 0));
}
#endif
