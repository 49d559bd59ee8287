/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether somebody still keeps the maps up to date. */
#pragma once
#include "packet.h"

/* Nobody has kept the maps up to date for long: what is new is better left to the node's stack. A pod whose egress is
 * judged goes on with the old maps, since the stack's translation would come after the verdict. */
outline int is_unattended(const struct packet *p)
{
	__u32 zero = 0;
	if (!CONFIG.unattended_after || p->kind & KIND_ENFORCED)
		return 0;
	__u64 *beat = bpf_map_lookup_elem(&mesh_heartbeat, &zero);
	return beat && (*beat >> TICK_SHIFT) + CONFIG.unattended_after < p->now;
}
