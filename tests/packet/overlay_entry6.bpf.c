/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For tests, as overlay_entry.bpf.c: the identity comes from the mark, the outer source from the priority. */
#define IPV6_PACKETS
#include "overlay6.h"

SEC("tc")
int test_from_overlay6(struct __sk_buff *skb)
{
	struct packet p = { .direction = INGRESS, .kind = KIND_IPV6, .source_identity = skb->mark };
	return receive(skb, &p, skb->priority);
}

char _license[] SEC("license") = "Dual BSD/GPL";
