package kafkawire

import "github.com/twmb/franz-go/pkg/kmsg"

// failed makes the answer to a request in which everything failed with a code. It is
// nil for requests that have nothing to fail, and for those that it does not know.
func failed(request kmsg.Request, code int16) kmsg.Response {
	resp := request.ResponseKind()
	resp.SetVersion(request.GetVersion())
	some := true
	switch r := request.(type) {
	case *kmsg.ProduceRequest:
		some = failedProduce(r, resp.(*kmsg.ProduceResponse), code)
	case *kmsg.FetchRequest:
		some = failedFetch(r, resp.(*kmsg.FetchResponse), code)
	case *kmsg.ListOffsetsRequest:
		some = failedListOffsets(r, resp.(*kmsg.ListOffsetsResponse), code)
	case *kmsg.OffsetFetchRequest:
		failedOffsetFetch(r, resp.(*kmsg.OffsetFetchResponse), code)
	case *kmsg.FindCoordinatorRequest:
		failedFindCoordinator(r, resp.(*kmsg.FindCoordinatorResponse), code)
	case *kmsg.AddPartitionsToTxnRequest:
		some = failedAddPartitions(r, resp.(*kmsg.AddPartitionsToTxnResponse), code)
	case *kmsg.TxnOffsetCommitRequest:
		some = failedTxnOffsetCommit(r, resp.(*kmsg.TxnOffsetCommitResponse), code)
	default:
		some = failedWhole(resp, code)
	}
	if !some {
		return nil
	}
	return resp
}

// failedWhole fills in answers that have one code for everything.
func failedWhole(resp kmsg.Response, code int16) bool {
	switch r := resp.(type) {
	case *kmsg.JoinGroupResponse:
		r.ErrorCode, r.Generation = code, -1
	case *kmsg.SyncGroupResponse:
		r.ErrorCode = code
	case *kmsg.HeartbeatResponse:
		r.ErrorCode = code
	case *kmsg.InitProducerIDResponse:
		r.ErrorCode, r.ProducerID, r.ProducerEpoch = code, -1, -1
	case *kmsg.AddOffsetsToTxnResponse:
		r.ErrorCode = code
	case *kmsg.EndTxnResponse:
		r.ErrorCode, r.ProducerID, r.ProducerEpoch = code, -1, -1
	default:
		return false
	}
	return true
}

func failedProduce(req *kmsg.ProduceRequest, resp *kmsg.ProduceResponse, code int16) bool {
	for _, t := range req.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode, rp.BaseOffset = p.Partition, code, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return len(resp.Topics) > 0
}

// failedFetch leaves requests alone that go on with a fetch session: they name no
// partitions.
func failedFetch(req *kmsg.FetchRequest, resp *kmsg.FetchResponse, code int16) bool {
	for _, t := range req.Topics {
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewFetchResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code
			rp.HighWatermark, rp.LastStableOffset, rp.LogStartOffset = -1, -1, -1
			rp.RecordBatches = []byte{} // brokers send none, not null
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return len(resp.Topics) > 0 && req.SessionID == 0
}

func failedListOffsets(req *kmsg.ListOffsetsRequest, resp *kmsg.ListOffsetsResponse, code int16) bool {
	for _, t := range req.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			rp.Partition, rp.ErrorCode, rp.Offset, rp.Timestamp = p.Partition, code, -1, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return len(resp.Topics) > 0
}

func failedOffsetFetch(req *kmsg.OffsetFetchRequest, resp *kmsg.OffsetFetchResponse, code int16) {
	resp.ErrorCode = code
	for _, g := range req.Groups {
		rg := kmsg.NewOffsetFetchResponseGroup()
		rg.Group, rg.ErrorCode = g.Group, code
		resp.Groups = append(resp.Groups, rg)
	}
}

func failedFindCoordinator(req *kmsg.FindCoordinatorRequest, resp *kmsg.FindCoordinatorResponse, code int16) {
	resp.ErrorCode, resp.NodeID, resp.Port = code, -1, -1
	for _, key := range req.CoordinatorKeys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.ErrorCode, c.NodeID, c.Port = key, code, -1, -1
		resp.Coordinators = append(resp.Coordinators, c)
	}
}

func failedAddPartitions(req *kmsg.AddPartitionsToTxnRequest, resp *kmsg.AddPartitionsToTxnResponse, code int16) bool {
	for _, t := range req.Topics {
		rt := kmsg.NewAddPartitionsToTxnResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p, code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return len(resp.Topics) > 0
}

func failedTxnOffsetCommit(req *kmsg.TxnOffsetCommitRequest, resp *kmsg.TxnOffsetCommitResponse, code int16) bool {
	for _, t := range req.Topics {
		rt := kmsg.NewTxnOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return len(resp.Topics) > 0
}
