package kafka

import "go.uber.org/zap"

// Leave has the consumer give its partitions back, as at the end of Run, and stay out of
// the group, until Join. It returns at once; Stats tells when no partition is left. It may
// be called from any goroutine.
func (c *Consumer) Leave() { c.leave.Store(true) }

// Join ends Leave.
func (c *Consumer) Join() { c.leave.Store(false) }

// membership does what Leave and Join ask for. It runs on the poll goroutine.
func (c *Consumer) membership() error {
	want := c.leave.Load()
	if want == c.away {
		return nil
	}
	c.away = want
	if want {
		c.handBack()
		c.log.Info("kafka: this consumer leaves the group for now")
		if err := c.client.Unsubscribe(); err != nil { // calls back to have nothing revoked
			c.log.Warn("kafka unsubscribe", zap.Error(err))
		}
		return nil
	}
	c.closing = false
	return wrap("subscribe", c.client.Subscribe(c.topic, c.rebalance))
}
