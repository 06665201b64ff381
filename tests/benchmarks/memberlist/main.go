// A member of a hashicorp/memberlist cluster, for bench_detection.py to compare with.
//
// It runs with the library's defaults for a local network, says on stdout what it
// hears of other members, one JSON object a line, and ends when stdin does.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

type line struct {
	Event string `json:"event"`
	Name  string `json:"name"`
	At    int64  `json:"at"`
}

// speaker writes one event a line; memberlist calls it from several goroutines.
type speaker struct {
	mutex sync.Mutex
	out   *json.Encoder
}

func (s *speaker) say(event, name string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if err := s.out.Encode(line{event, name, time.Now().UnixNano()}); err != nil {
		os.Exit(1)
	}
}

func (s *speaker) NotifyJoin(node *memberlist.Node)   { s.say("join", node.Name) }
func (s *speaker) NotifyLeave(node *memberlist.Node)  { s.say("dead", node.Name) }
func (s *speaker) NotifyUpdate(node *memberlist.Node) { s.say("update", node.Name) }

func main() {
	name := flag.String("name", "", "the member's name")
	host := flag.String("host", "127.0.0.1", "the address to listen on")
	port := flag.Int("port", 0, "the port to listen on")
	join := flag.String("join", "", "members to join, host:port, separated by commas")
	flag.Parse()

	speaker := &speaker{out: json.NewEncoder(os.Stdout)}
	config := memberlist.DefaultLANConfig()
	config.Name = *name
	config.BindAddr = *host
	config.BindPort = *port
	config.AdvertiseAddr = *host
	config.AdvertisePort = *port
	config.Events = speaker
	config.LogOutput = io.Discard

	member, err := memberlist.Create(config)
	if err != nil {
		speaker.say("error", err.Error())
		os.Exit(1)
	}
	if *join != "" {
		if _, err := member.Join(strings.Split(*join, ",")); err != nil {
			speaker.say("error", err.Error())
			os.Exit(1)
		}
	}
	speaker.say("ready", *name)
	stdin := bufio.NewReader(os.Stdin)
	for {
		if _, err := stdin.ReadByte(); err != nil {
			return
		}
	}
}
