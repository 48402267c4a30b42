package remote

import (
	"bytes"
	"context"
	"sync"

	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
)

// Logging says which outputs of a command are shown while it runs.
type Logging string

// The values a program may give.
const (
	LogStdout          Logging = "stdout"
	LogStderr          Logging = "stderr"
	LogStdoutAndStderr Logging = "stdoutAndStderr"
	LogNone            Logging = "none"
)

// Values lists them for the schema.
func (Logging) Values() []infer.EnumValue[Logging] {
	return []infer.EnumValue[Logging]{
		{Name: "stdout", Value: LogStdout, Description: "Show stdout but not stderr"},
		{Name: "stderr", Value: LogStderr, Description: "Show stderr but not stdout"},
		{Name: "stdoutAndStderr", Value: LogStdoutAndStderr, Description: "Show stdout and stderr"},
		{Name: "none", Value: LogNone, Description: "Show neither"},
	}
}

func (l *Logging) stdout() bool {
	return l == nil || *l == LogStdout || *l == LogStdoutAndStderr
}

func (l *Logging) stderr() bool {
	return l == nil || *l == LogStderr || *l == LogStdoutAndStderr
}

// pieceLimit is the longest text sent to the engine at once, in bytes: a longer
// line is shown in pieces.
const pieceLimit = 32 << 10

// lineLogger shows each line written to it as the resource's status. It takes
// writes from two streams at once.
type lineLogger struct {
	mutex   sync.Mutex
	show    func(line string)
	pending []byte
}

func newLineLogger(ctx context.Context) *lineLogger {
	return &lineLogger{show: provider.GetLogger(ctx).InfoStatus}
}

func (l *lineLogger) Write(text []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.pending = append(l.pending, text...)
	for {
		end := bytes.IndexByte(l.pending, '\n')
		switch {
		case end >= 0 && end <= pieceLimit:
			l.show(string(bytes.TrimSuffix(l.pending[:end], []byte("\r"))))
			l.pending = l.pending[end+1:]
		case len(l.pending) > pieceLimit:
			l.show(string(l.pending[:pieceLimit]))
			l.pending = l.pending[pieceLimit:]
		default:
			return len(text), nil
		}
	}
}

// flush shows a last line that has no end.
func (l *lineLogger) flush() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if len(l.pending) > 0 {
		l.show(string(l.pending))
		l.pending = nil
	}
}

// lockedBuffer collects what two streams write, in the order of arrival.
type lockedBuffer struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(text []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.Write(text)
}

func (b *lockedBuffer) String() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.String()
}
