package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"time"
)

// mconsole sends one command to a User-Mode guest's management socket and returns the answer.
// The protocol is the kernel's (arch/um/drivers/mconsole.h): one datagram each way, 512 bytes of text.
func mconsole(socket, command string) (string, error) {
	mine := fmt.Sprintf("%s.%d", socket, os.Getpid())
	_ = os.Remove(mine)
	conn, err := net.DialUnix("unixgram", &net.UnixAddr{Name: mine, Net: "unixgram"}, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return "", err
	}
	defer os.Remove(mine)
	defer conn.Close()
	request := struct {
		Magic, Version, Length uint32
		Data                   [512]byte
	}{Magic: 0xcafebabe, Version: 2, Length: uint32(len(command))}
	copy(request.Data[:], command)
	var out bytes.Buffer
	if err := binary.Write(&out, binary.NativeEndian, request); err != nil {
		return "", err
	}
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := conn.Write(out.Bytes()); err != nil {
		return "", err
	}
	var text bytes.Buffer
	for {
		answer := make([]byte, 12+512)
		n, err := conn.Read(answer)
		if err != nil {
			return text.String(), err
		}
		if n < 12 {
			return text.String(), fmt.Errorf("%s: answer of %d bytes", socket, n)
		}
		failed, more, length := binary.NativeEndian.Uint32(answer), binary.NativeEndian.Uint32(answer[4:]), binary.NativeEndian.Uint32(answer[8:])
		text.Write(answer[12:min(n, 12+int(length))])
		if failed != 0 {
			return "", fmt.Errorf("%s: %s", command, text.String())
		}
		if more == 0 {
			return text.String(), nil
		}
	}
}
