package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

const (
	houseEvery   = 10 * time.Second
	compactAfter = time.Minute // the start
	askTimeout   = 5 * time.Second
	maxAnswer    = 64 << 20
)

// housekeeper keeps the disk use of an embedded broker within bounds. kfake applies
// retention by itself only to topics that set it; for its compaction see compactor.
type housekeeper struct {
	e     *Embedded
	every time.Duration
	since time.Time // compaction begins then: shards are rebuilt first
	log   *zap.Logger
	*compactor

	crowded bool // that there is not enough space for a copy was told
}

func newHousekeeper(e *Embedded, cfg EmbeddedConfig) *housekeeper {
	h := &housekeeper{e: e, every: cfg.houseEvery, log: cfg.Log, compactor: newCompactor(e.cluster, e.addr, cfg.compactMin, cfg.Log)}
	if h.every == 0 {
		h.every = houseEvery
		h.since = time.Now().Add(compactAfter)
	}
	return h
}

func (h *housekeeper) run(ctx context.Context) {
	defer h.close()
	t := time.NewTicker(h.every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := h.keep(ctx); err != nil && ctx.Err() == nil {
				h.log.Warn("embedded kafka: housekeeping failed; it is tried again", zap.Error(err))
			}
		}
	}
}

func (h *housekeeper) keep(ctx context.Context) error {
	topics, err := h.compacted()
	if err != nil {
		return err
	}
	h.e.cluster.ApplyRetention()
	if time.Now().Before(h.since) {
		return nil
	}
	for _, topic := range topics {
		for _, p := range h.e.cluster.PartitionInfos(topic) {
			if !h.due(topic, p) || !h.hasSpace(p.NumBytes) {
				continue
			}
			if err := h.compact(ctx, topic, p.Partition); errors.Is(err, errBusy) {
				h.log.Debug("embedded kafka: a partition is not compacted now", zap.String("topic", topic), zap.Int32("partition", p.Partition), zap.Error(err))
			} else if err != nil {
				return fmt.Errorf("compact %s, partition %d: %w", topic, p.Partition, err)
			}
		}
	}
	return nil
}

// hasSpace tells whether there is room for a copy.
func (h *housekeeper) hasSpace(bytes int64) bool {
	if h.e.space == nil {
		return true
	}
	free := h.e.space.free()
	enough := free-bytes > h.e.space.reserve
	if !enough && !h.crowded {
		h.log.Warn("embedded kafka: too little disk space to compact", zap.Int64("free_bytes", free), zap.Int64("needed_bytes", bytes+h.e.space.reserve))
	}
	h.crowded = !enough
	return enough
}

// compacted returns the names of the topics that are compacted, and sees to it that no
// retention applies to them: kfake would apply the default.
func (h *housekeeper) compacted() ([]string, error) {
	all, err := h.topics()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range all {
		info := h.e.cluster.TopicInfo(name)
		if info == nil || setTo(info.Configs, "cleanup.policy") != "compact" {
			continue
		}
		names = append(names, name)
		for _, key := range []string{"retention.bytes", "retention.ms"} {
			if setTo(info.Configs, key) == "" {
				if err := h.set(name, key, "-1"); err != nil {
					return nil, err
				}
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

func setTo(m map[string]*string, key string) string {
	if v := m[key]; v != nil {
		return *v
	}
	return ""
}

func (h *housekeeper) topics() ([]string, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 5
	req.Topics = nil // all
	resp, err := ask(h.e.addr, req)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, t := range resp.(*kmsg.MetadataResponse).Topics {
		if t.Topic != nil {
			names = append(names, *t.Topic)
		}
	}
	return names, nil
}

func (h *housekeeper) set(topic, key, value string) error {
	change := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	change.Name, change.Value = key, &value
	res := kmsg.NewIncrementalAlterConfigsRequestResource()
	res.ResourceType, res.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	res.Configs = append(res.Configs, change)
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = append(req.Resources, res)
	resp, err := ask(h.e.addr, req)
	if err != nil {
		return err
	}
	for _, r := range resp.(*kmsg.IncrementalAlterConfigsResponse).Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return fmt.Errorf("set %s of topic %q: %w", key, topic, err)
		}
	}
	return nil
}

// ask sends one request, of a version without tagged fields, on a connection of its own.
func ask(addr string, req kmsg.Request) (kmsg.Response, error) {
	conn, err := net.DialTimeout("tcp", addr, askTimeout)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("housekeeper")).AppendRequest(nil, req, 1)); err != nil {
		return nil, err
	}
	var head [8]byte // length and correlation id
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	size := int64(binary.BigEndian.Uint32(head[:])) - 4
	if size < 0 || size > maxAnswer {
		return nil, fmt.Errorf("an answer of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, err
	}
	resp := req.ResponseKind()
	return resp, resp.ReadFrom(body)
}
