//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// mqtt is MQTT 3.1.1 with QoS 0: node 7 subscribes to node/7 and publishes to results,
// to which the dispatcher subscribes. OASIS, MQTT Version 3.1.1, 2014.
type mqtt struct{ scratch []byte }

const (
	mqttConnect   = 0x10
	mqttConnAck   = 0x20
	mqttPublish   = 0x30
	mqttSubscribe = 0x82
	mqttSubAck    = 0x90
	resultTopic   = "results"
)

func appendPacket(dst []byte, head byte, body []byte) []byte {
	dst = binary.AppendUvarint(append(dst, head), uint64(len(body))) // 2.2.3: the same form
	return append(dst, body...)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

// open is CONNECT with a clean session and no keep alive, and SUBSCRIBE.
func (m *mqtt) open(dst []byte, client, topic string) []byte {
	m.scratch = append(appendText(m.scratch[:0], "MQTT"), 4, 0x02, 0, 0)
	m.scratch = appendText(m.scratch, client)
	dst = appendPacket(dst, mqttConnect, m.scratch)
	m.scratch = append(appendText(append(m.scratch[:0], 0, 1), topic), 0)
	return appendPacket(dst, mqttSubscribe, m.scratch)
}

func (m *mqtt) hello(dst []byte, node int) []byte {
	n := strconv.Itoa(node)
	return m.open(dst, "node-"+n, "node/"+n)
}

func (m *mqtt) greet(dst []byte) []byte { return m.open(dst, "dispatcher", resultTopic) }

func (m *mqtt) answer(dst, body []byte) []byte {
	m.scratch = append(appendText(m.scratch[:0], resultTopic), body...)
	return appendPacket(dst, mqttPublish, m.scratch)
}

func (m *mqtt) job(dst []byte, node int, body []byte) []byte {
	m.scratch = append(m.scratch[:0], 0, 0)
	m.scratch = strconv.AppendInt(append(m.scratch, "node/"...), int64(node), 10)
	binary.BigEndian.PutUint16(m.scratch, uint16(len(m.scratch)-2))
	m.scratch = append(m.scratch, body...)
	return appendPacket(dst, mqttPublish, m.scratch)
}

func (m *mqtt) pong(dst []byte) []byte { return dst } // only clients ping

func (m *mqtt) next(b []byte, dispatcher bool) (f frame, err error) {
	if len(b) < 2 {
		return f, nil
	}
	n, k := binary.Uvarint(b[1:min(len(b), 5)])
	switch {
	case k < 0 || k == 0 && len(b) >= 5 || n > maxFrame:
		return f, fmt.Errorf("a packet whose length is % x", b[1:min(len(b), 5)])
	case k == 0 || len(b) < 1+k+int(n):
		return f, nil
	}
	f.size = 1 + k + int(n)
	body := b[1+k : f.size]
	switch head := b[0]; {
	case head == mqttConnAck && (len(body) != 2 || body[1] != 0):
		return f, fmt.Errorf("CONNACK % x", body)
	case head == mqttSubAck:
		if len(body) != 3 || body[2] > 2 {
			return f, fmt.Errorf("SUBACK % x", body)
		}
		f.kind = ready
	case head&0xf0 == mqttPublish:
		if len(body) < 2 || len(body) < 2+int(binary.BigEndian.Uint16(body)) {
			return f, fmt.Errorf("PUBLISH without its topic")
		}
		f.kind, f.body = jobIn, body[2+int(binary.BigEndian.Uint16(body)):]
		if dispatcher {
			f.kind = result
		}
	}
	return f, nil
}
