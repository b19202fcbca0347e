// The lab's stand-in for what runs on a whole machine beside the node's agent: an ssh server that runs commands for whoever has the lab's key, and the
// way of the agent's log into the machine's journal (as the unit kubelet.service, whichever agent it is: it stands in that place).
package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"bytes"

	"golang.org/x/crypto/ssh"
)

func main() {
	listen := flag.String("listen", ":22", "address of the ssh server")
	keyFile := flag.String("key", "", "public key (PEM, PKIX) of whoever may log in")
	logFile := flag.String("log", "", "the agent's log")
	journal := flag.String("journal", "", "journal file that the log goes to")
	remote := flag.String("journal-remote", "systemd-journal-remote", "systemd's program that writes journals")
	flag.Parse()
	config, err := serverConfig(*keyFile)
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(follow(*logFile, *journal, *remote)) }()
	log.Fatal(serve(*listen, config))
}

func serverConfig(keyFile string) (*ssh.ServerConfig, error) {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", keyFile)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	allowed, err := ssh.NewPublicKey(parsed)
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if bytes.Equal(key.Marshal(), allowed.Marshal()) {
				return nil, nil
			}
			return nil, errors.New("not the lab's key")
		},
	}
	// A node lives as long as its lab: nobody remembers its host key.
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	config.AddHostKey(host)
	return config, nil
}

func serve(address string, config *ssh.ServerConfig) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go login(conn, config)
	}
}

func login(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		log.Printf("%s: %v", conn.RemoteAddr(), err)
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			log.Printf("%s: %v", conn.RemoteAddr(), err)
			return
		}
		go session(channel, requests)
	}
}

// session runs the one command of an "exec" request (RFC 4254, 6.5), and tells its exit status.
func session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for request := range requests {
		if request.Type != "exec" {
			_ = request.Reply(request.Type == "env", nil)
			continue
		}
		var wanted struct{ Command string }
		if err := ssh.Unmarshal(request.Payload, &wanted); err != nil {
			_ = request.Reply(false, nil)
			return
		}
		_ = request.Reply(true, nil)
		command := exec.Command("/bin/sh", "-c", wanted.Command)
		command.Dir = "/"
		command.Stdin, command.Stdout, command.Stderr = channel, channel, channel.Stderr()
		// Wait would wait for the client to close its side, which it does after the exit status.
		command.WaitDelay = 100 * time.Millisecond
		status := struct{ Code uint32 }{0}
		if err := command.Run(); err != nil && command.ProcessState == nil {
			fmt.Fprintln(channel.Stderr(), err)
			status.Code = 127
		} else if code := command.ProcessState.ExitCode(); code != 0 {
			status.Code = uint32(code)
		}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(&status))
		return
	}
}

// follow sends each line that the log has and gets to systemd-journal-remote, as an entry in the journal's export format
// (https://systemd.io/JOURNAL_EXPORT_FORMATS).
func follow(logFile, journal, remote string) error {
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	writer := exec.Command(remote, "--output="+journal, "-")
	writer.Stdout, writer.Stderr = os.Stdout, os.Stderr
	entries, err := writer.StdinPipe()
	if err != nil {
		return err
	}
	if err := writer.Start(); err != nil {
		return err
	}
	always := fmt.Sprintf("_BOOT_ID=%s\n_HOSTNAME=%s\n_SYSTEMD_UNIT=kubelet.service\nSYSLOG_IDENTIFIER=kubelet\nPRIORITY=6\n",
		strings.ReplaceAll(strings.TrimSpace(string(boot)), "-", ""), hostname)
	file, err := os.Open(logFile)
	if err != nil {
		return err
	}
	lines := bufio.NewReader(file)
	line := ""
	for {
		part, err := lines.ReadString('\n')
		line += part
		if err == io.EOF {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		uptime, err := os.ReadFile("/proc/uptime")
		if err != nil {
			return err
		}
		var seconds float64
		if _, err := fmt.Sscan(string(uptime), &seconds); err != nil {
			return err
		}
		text := strings.TrimRight(line, "\r\n")
		line = ""
		_, err = fmt.Fprintf(entries, "__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n%sMESSAGE=%s\n\n",
			time.Now().UnixMicro(), int64(seconds*1e6), always, text)
		if err != nil {
			return errors.Join(err, writer.Wait())
		}
	}
}
