/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* No proxy takes connections of IPv6: a port that a rule leads to one is closed (HAS_PROXY), and no packet is from one. */
#pragma once
#include "ct.h"

#define ONLY_ITS_SOCKET 0xffff
enum proxy_mark { MARK_EGRESS_REPLY = 0x0a00 };

inlined __u32 proxy_mark(const struct __sk_buff *skb)
{
	return skb->mark & 0x0f00;
}

inlined int is_of_upstream(struct __sk_buff *skb, const struct packet *p)
{
	return skb->mark == ~0u && p->by_proxy;
}

inlined int to_proxy(struct __sk_buff *skb, const struct packet *p, const struct endpoint_value *port, int is_leaving)
{
	return port || is_leaving || p->proxy_port ? drop(skb, p, DROP_PROXY) : TC_ACT_SHOT;
}
