// SPDX-License-Identifier: Apache-2.0

// Package job is what both programs share: the broker's names, the events and the result. See tests/bench/job.py.
package job

import (
	"encoding/json"
	"fmt"
	"log"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	Input       = "bench_in"
	Exchange    = "order_events"
	ReservedKey = "inventory.reserved"
	CapturedKey = "payment.captured"
)

// Reserved is the event in the input queue, as far as the job needs it.
type Reserved struct {
	EventType    string    `json:"event_type"`
	Timestamp    time.Time `json:"timestamp"`
	OrderID      uuid.UUID `json:"order_id"`
	UserID       string    `json:"user_id"`
	TotalAmount  int64     `json:"total_amount"`
	Currency     string    `json:"currency"`
	Items        []Line    `json:"items"`
	PaymentToken string    `json:"payment_token"`
	Version      int       `json:"version"`
}

// Line is one line of an order.
type Line struct {
	SKU       string `json:"sku"`
	Quantity  int    `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

// Arguments are AMQP_URL, DATABASE_URL, MESSAGES and, if the program takes one, another number.
func Arguments(numbers int) (amqpURL, databaseURL string, values []int) {
	if len(os.Args) != 3+numbers {
		log.Fatalf("usage: %s AMQP_URL DATABASE_URL and %d numbers", os.Args[0], numbers)
	}
	for _, text := range os.Args[3:] {
		value, err := strconv.Atoi(text)
		Check(err)
		values = append(values, value)
	}
	return os.Args[1], os.Args[2], values
}

// User is the broker user of a URL; the messages name it as their publisher.
func User(amqpURL string) string {
	parsed, err := url.Parse(amqpURL)
	Check(err)
	return parsed.User.Username()
}

// Consume starts to receive from the input queue, on a connection of its own.
func Consume(amqpURL string, prefetch int) (*amqp.Connection, *amqp.Channel, <-chan amqp.Delivery) {
	connection, channel := open(amqpURL)
	Check(channel.Qos(prefetch, 0, false))
	deliveries, err := channel.Consume(Input, "bench", false, false, false, false, nil)
	Check(err)
	return connection, channel, deliveries
}

// Publisher is a channel with confirms, on a connection of its own. Messages that the broker returns as unroutable
// are in the second channel before they are confirmed.
func Publisher(amqpURL string, window int) (*amqp.Connection, *amqp.Channel, <-chan amqp.Return) {
	connection, channel := open(amqpURL)
	Check(channel.Confirm(false))
	return connection, channel, channel.NotifyReturn(make(chan amqp.Return, window))
}

func open(amqpURL string) (*amqp.Connection, *amqp.Channel) {
	connection, err := amqp.Dial(amqpURL)
	Check(err)
	channel, err := connection.Channel()
	Check(err)
	return connection, channel
}

// Stopwatch measures the time and the CPU of this process since it was started.
type Stopwatch struct {
	started time.Time
	cpu     float64
}

// Start starts a stopwatch.
func Start() Stopwatch { return Stopwatch{time.Now(), cpuSeconds()} }

// Seconds since the start.
func (s Stopwatch) Seconds() float64 { return time.Since(s.started).Seconds() }

// Print prints the result as one JSON line: the seconds that the job took, and the CPU until now.
func (s Stopwatch) Print(seconds float64) {
	line, err := json.Marshal(map[string]float64{"seconds": seconds, "cpu_seconds": cpuSeconds() - s.cpu})
	Check(err)
	fmt.Println(string(line))
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	Check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

// Check ends the program when there is an error: the job is then not done, and nothing was measured.
func Check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
