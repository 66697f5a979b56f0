// What batch_consume.go and batch_produce.go need of librdkafka's public interface. The binding
// ships rdkafka.h where other packages cannot include it. The declarations are weak: they
// are resolved when the program is linked, by the library that the binding links.
#ifndef ROOST_NATIVE_H
#define ROOST_NATIVE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

#define ROOST_WEAK __attribute__((weak))

typedef struct rd_kafka_s rd_kafka_t;
typedef struct rd_kafka_queue_s rd_kafka_queue_t;
typedef struct rd_kafka_topic_s rd_kafka_topic_t;
typedef struct rd_kafka_headers_s rd_kafka_headers_t;

typedef struct rd_kafka_message_s {
	int err;
	rd_kafka_topic_t *rkt;
	int32_t partition;
	void *payload;
	size_t len;
	void *key;
	size_t key_len;
	int64_t offset;
	void *_private;
} rd_kafka_message_t;

// Of rd_kafka_vtype_t, and RD_KAFKA_MSG_F_COPY.
enum { V_END = 0, V_RKT = 2, V_PARTITION = 3, V_VALUE = 4, V_KEY = 5, V_MSGFLAGS = 7, V_HEADERS = 10, F_COPY = 2 };

ROOST_WEAK rd_kafka_queue_t *rd_kafka_queue_new(rd_kafka_t *rk);
ROOST_WEAK void rd_kafka_queue_destroy(rd_kafka_queue_t *q);
ROOST_WEAK rd_kafka_queue_t *rd_kafka_queue_get_consumer(rd_kafka_t *rk);
ROOST_WEAK rd_kafka_queue_t *rd_kafka_queue_get_partition(rd_kafka_t *rk, const char *topic, int32_t partition);
ROOST_WEAK void rd_kafka_queue_forward(rd_kafka_queue_t *src, rd_kafka_queue_t *dst);
ROOST_WEAK void rd_kafka_queue_yield(rd_kafka_queue_t *q);
ROOST_WEAK void rd_kafka_queue_cb_event_enable(rd_kafka_queue_t *q, void (*cb)(rd_kafka_t *rk, void *opaque), void *opaque);
ROOST_WEAK rd_kafka_message_t *rd_kafka_consume_queue(rd_kafka_queue_t *q, int timeout_ms);
ROOST_WEAK ssize_t rd_kafka_consume_batch_queue(rd_kafka_queue_t *q, int timeout_ms, rd_kafka_message_t **ms, size_t n);
ROOST_WEAK void rd_kafka_message_destroy(rd_kafka_message_t *m);
ROOST_WEAK int64_t rd_kafka_message_timestamp(const rd_kafka_message_t *m, int *type);
ROOST_WEAK int32_t rd_kafka_message_leader_epoch(const rd_kafka_message_t *m);
ROOST_WEAK int rd_kafka_message_headers(const rd_kafka_message_t *m, rd_kafka_headers_t **hs);
ROOST_WEAK size_t rd_kafka_header_cnt(const rd_kafka_headers_t *hs);
ROOST_WEAK int rd_kafka_header_get_all(const rd_kafka_headers_t *hs, size_t i, const char **name, const void **value, size_t *size);
ROOST_WEAK rd_kafka_topic_t *rd_kafka_topic_new(rd_kafka_t *rk, const char *topic, void *conf);
ROOST_WEAK void rd_kafka_topic_destroy(rd_kafka_topic_t *rkt);
ROOST_WEAK rd_kafka_headers_t *rd_kafka_headers_new(size_t n);
ROOST_WEAK void rd_kafka_headers_destroy(rd_kafka_headers_t *hs);
ROOST_WEAK int rd_kafka_header_add(rd_kafka_headers_t *hs, const char *name, ssize_t name_size, const void *value, ssize_t value_size);
ROOST_WEAK int rd_kafka_producev(rd_kafka_t *rk, ...);

#endif
