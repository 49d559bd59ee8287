/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a transport's checksum is, which covers the addresses too. */
#pragma once
#include "packet.h"

struct l4_check { int offset; __u64 flags; };

inlined struct l4_check l4_check_of(const struct packet *p)
{
	struct l4_check c = { .offset = 0, .flags = 0 };
	if (p->kind & KIND_LATER_FRAGMENT)
		return c;	/* the first fragment carries the checksum of the whole datagram */
	if (p->protocol == PROTO_TCP)
		c.offset = p->l4_offset + 16;
#ifdef IPV6_PACKETS
	if (p->protocol == PROTO_ICMPV6)
		c.offset = p->l4_offset + 2;
#endif
	if (p->protocol == PROTO_UDP) {
		c.offset = p->l4_offset + 6;
		c.flags = BPF_F_MARK_MANGLED_0;	/* zero means "no checksum" and stays so */
	}
	return c;
}
