package kafka

import (
	"errors"
	"reflect"
	"strings"
	"unsafe"
)

// errBinding: confluent-kafka-go is not built as this package expects.
var errBinding = errors.New("kafka: this version of confluent-kafka-go keeps its handle of librdkafka elsewhere than the one that this program was written for; build it with the version in its go.mod")

// native returns the rd_kafka_t of a client of confluent-kafka-go, which has no way to move
// many records with one call: for each consumed it makes five calls into C, and for each
// produced one and two for each header. The handle is an unexported field, so a new version
// of the binding may need a change here: TestNativeHandle would tell.
func native(client any) (unsafe.Pointer, error) {
	v := reflect.Indirect(reflect.ValueOf(client))
	if v.Kind() != reflect.Struct {
		return nil, errBinding
	}
	handle := v.FieldByName("handle")
	if handle.Kind() != reflect.Struct {
		return nil, errBinding
	}
	rk := handle.FieldByName("rk")
	if rk.Kind() != reflect.Pointer || !strings.HasSuffix(rk.Type().Elem().Name(), "rd_kafka_s") || rk.IsNil() {
		return nil, errBinding
	}
	return rk.UnsafePointer(), nil
}
