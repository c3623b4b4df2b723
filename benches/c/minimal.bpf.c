// What a packet filter with connection tracking cannot do without, in C: the yardstick of `cargo xtask bench datapath`.
//
// An Ethernet frame with IPv4 and TCP is read and looked up in a table of flows with the same key and the same size as nv's; its
// flow's counters and times, and its endpoint's counters per processor, are written. No policy, no application, no IPv6, no guard.
// A flow that is not known is entered as allowed. It has no headers of others, so that clang alone builds it.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define inline_always inline __attribute__((always_inline))

enum { MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_LRU_HASH = 9 };
enum { TC_ACT_OK = 0, TC_ACT_SHOT = 2, DENY = 2 };

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)160;

// linux/bpf.h, the fields that are read.
struct __sk_buff {
  u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex, ifindex;
  u32 tc_index, cb[5], hash, tc_classid, data, data_end;
};

struct key {
  u8 local[16], peer[16];
  u32 ifindex;
  u16 local_port, peer_port;
  u8 proto, pad[3];
};

struct side {
  u64 packets, bytes, last_ns;
  u32 next;
  u8 tcp_flags, pad[3];
};

struct flow {
  u32 epoch, rule;
  u8 verdict, reason, pad[6];
  u64 first_ns;
  struct side tx, rx;
};

struct counters {
  u64 packets, bytes, flows, by_verdict[4];
};

struct {
  __uint(type, MAP_LRU_HASH);
  __type(key, struct key);
  __type(value, struct flow);
  __uint(max_entries, 65536);
} FLOWS SEC(".maps");

struct {
  __uint(type, MAP_PERCPU_ARRAY);
  __type(key, u32);
  __type(value, struct counters);
  __uint(max_entries, 2);
} COUNTERS SEC(".maps");

struct {
  __uint(type, MAP_ARRAY);
  __type(key, u32);
  __type(value, u32);
  __uint(max_entries, 1);
} EPOCH SEC(".maps");

static inline_always u16 swap16(u16 v) { return __builtin_bswap16(v); }
static inline_always u32 swap32(u32 v) { return __builtin_bswap32(v); }

SEC("classifier")
int minimal(struct __sk_buff *skb) {
  u8 *data = (u8 *)(long)skb->data;
  u8 *end = (u8 *)(long)skb->data_end;
  // Ethernet, IPv4 and TCP without options.
  if (data + 54 > end || *(u16 *)(data + 12) != swap16(0x0800) || data[14] != 0x45 || data[23] != 6)
    return TC_ACT_OK;
  struct key key = {};
  key.local[10] = key.local[11] = key.peer[10] = key.peer[11] = 0xff;
  __builtin_memcpy(key.peer + 12, data + 26, 4);
  __builtin_memcpy(key.local + 12, data + 30, 4);
  key.ifindex = skb->ifindex;
  key.peer_port = swap16(*(u16 *)(data + 34));
  key.local_port = swap16(*(u16 *)(data + 36));
  key.proto = 6;
  u32 zero = 0;
  u32 *epoch = bpf_map_lookup_elem(&EPOCH, &zero);
  struct counters *counters = bpf_map_lookup_elem(&COUNTERS, &zero);
  if (!epoch || !counters)
    return TC_ACT_OK;
  u64 now = bpf_ktime_get_coarse_ns();
  struct flow *flow = bpf_map_lookup_elem(&FLOWS, &key);
  if (!flow) {
    struct flow fresh = {.epoch = *epoch, .first_ns = now};
    bpf_map_update_elem(&FLOWS, &key, &fresh, 0);
    flow = bpf_map_lookup_elem(&FLOWS, &key);
    if (!flow)
      return TC_ACT_SHOT;
    counters->flows++;
  }
  u32 len = skb->len;
  struct side *side = &flow->rx;
  __sync_fetch_and_add(&side->packets, 1);
  __sync_fetch_and_add(&side->bytes, len);
  side->last_ns = now;
  side->tcp_flags |= data[47];
  side->next = swap32(*(u32 *)(data + 38)) + len - 54;
  u8 verdict = flow->epoch == *epoch ? flow->verdict : DENY;
  counters->packets++;
  counters->bytes += len;
  counters->by_verdict[verdict & 3]++;
  return verdict == DENY ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
