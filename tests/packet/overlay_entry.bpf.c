/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* BPF_PROG_TEST_RUN cannot carry tunnel metadata: here the identity comes from the mark, the outer source from the
 * priority. Everything behind that is the datapath's own code. */
#include "overlay.h"

SEC("tc")
int test_from_overlay(struct __sk_buff *skb)
{
	struct packet p = { .direction = INGRESS, .source_identity = skb->mark };
	return receive(skb, &p, skb->priority);
}

char _license[] SEC("license") = "Dual BSD/GPL";
