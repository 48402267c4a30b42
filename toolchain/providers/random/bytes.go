package random

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"

	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
)

// RandomBytes is random:index/randomBytes:RandomBytes.
type RandomBytes struct{}

// RandomBytesInputs is what a program gives.
type RandomBytesInputs struct {
	Length  int               `pulumi:"length"`
	Keepers map[string]string `pulumi:"keepers,optional"`
}

// RandomBytesOutputs is the state.
type RandomBytesOutputs struct {
	RandomBytesInputs
	Base64 string `pulumi:"base64" provider:"secret"`
	Hex    string `pulumi:"hex" provider:"secret"`
}

// Annotate names and documents the resource.
func (r *RandomBytes) Annotate(a infer.Annotator) {
	a.SetToken("index/randomBytes", "RandomBytes")
	a.Describe(&r, "Random bytes. Their base64 form is also the ID, which the state holds in clear.")
}

// Annotate documents the inputs.
func (r *RandomBytesInputs) Annotate(a infer.Annotator) {
	a.Describe(&r.Length, "How many bytes, at least 1.")
	a.Describe(&r.Keepers, keepersText)
}

// Check refuses a length below 1.
func (*RandomBytes) Check(
	ctx context.Context, request infer.CheckRequest,
) (infer.CheckResponse[RandomBytesInputs], error) {
	inputs, failures, err := infer.DefaultCheck[RandomBytesInputs](ctx, request.NewInputs)
	if err == nil && len(failures) == 0 && known(request, "length") {
		failures = atLeastOne("length", inputs.Length)
	}
	return infer.CheckResponse[RandomBytesInputs]{Inputs: inputs, Failures: failures}, err
}

// Create makes the bytes.
func (*RandomBytes) Create(
	_ context.Context, request infer.CreateRequest[RandomBytesInputs],
) (infer.CreateResponse[RandomBytesOutputs], error) {
	output := RandomBytesOutputs{RandomBytesInputs: request.Inputs}
	if !request.DryRun {
		bytes := randomBytes(request.Inputs.Length)
		output.Base64 = base64.StdEncoding.EncodeToString(bytes)
		output.Hex = hex.EncodeToString(bytes)
	}
	return infer.CreateResponse[RandomBytesOutputs]{ID: output.Base64, Output: output}, nil
}

// WireDependencies marks the value secret.
func (*RandomBytes) WireDependencies(f infer.FieldSelector, _ *RandomBytesInputs, state *RandomBytesOutputs) {
	f.OutputField(&state.Base64).AlwaysSecret()
	f.OutputField(&state.Hex).AlwaysSecret()
}

// RandomId is random:index/randomId:RandomId.
type RandomId struct{} //nolint:revive // the published name

// RandomIdInputs is what a program gives.
type RandomIdInputs struct { //nolint:revive
	ByteLength int               `pulumi:"byteLength"`
	Prefix     *string           `pulumi:"prefix,optional"`
	Keepers    map[string]string `pulumi:"keepers,optional"`
}

// RandomIdOutputs is the state; every form but the ID begins with the prefix.
type RandomIdOutputs struct { //nolint:revive
	RandomIdInputs
	B64Std string `pulumi:"b64Std"`
	B64Url string `pulumi:"b64Url"`
	Dec    string `pulumi:"dec"`
	Hex    string `pulumi:"hex"`
}

// Annotate names and documents the resource.
func (r *RandomId) Annotate(a infer.Annotator) {
	a.SetToken("index/randomId", "RandomId")
	a.Describe(&r, "A random identifier; not a secret.")
}

// Annotate documents the inputs.
func (r *RandomIdInputs) Annotate(a infer.Annotator) {
	a.Describe(&r.ByteLength, "How many random bytes, at least 1.")
	a.Describe(&r.Prefix, "Text that every form of the value begins with.")
	a.Describe(&r.Keepers, keepersText)
}

// Check refuses a length below 1.
func (*RandomId) Check(
	ctx context.Context, request infer.CheckRequest,
) (infer.CheckResponse[RandomIdInputs], error) {
	inputs, failures, err := infer.DefaultCheck[RandomIdInputs](ctx, request.NewInputs)
	if err == nil && len(failures) == 0 && known(request, "byteLength") {
		failures = atLeastOne("byteLength", inputs.ByteLength)
	}
	return infer.CheckResponse[RandomIdInputs]{Inputs: inputs, Failures: failures}, err
}

// Create makes the identifier.
func (*RandomId) Create(
	_ context.Context, request infer.CreateRequest[RandomIdInputs],
) (infer.CreateResponse[RandomIdOutputs], error) {
	output := RandomIdOutputs{RandomIdInputs: request.Inputs}
	if request.DryRun {
		return infer.CreateResponse[RandomIdOutputs]{Output: output}, nil
	}
	prefix := ""
	if request.Inputs.Prefix != nil {
		prefix = *request.Inputs.Prefix
	}
	bytes := randomBytes(request.Inputs.ByteLength)
	id := base64.RawURLEncoding.EncodeToString(bytes)
	output.B64Url = prefix + id
	output.B64Std = prefix + base64.StdEncoding.EncodeToString(bytes)
	output.Hex = prefix + hex.EncodeToString(bytes)
	output.Dec = prefix + new(big.Int).SetBytes(bytes).String()
	return infer.CreateResponse[RandomIdOutputs]{ID: id, Output: output}, nil
}

// RandomUuid is random:index/randomUuid:RandomUuid.
type RandomUuid struct{} //nolint:revive

// RandomUuidInputs is what a program gives.
type RandomUuidInputs struct { //nolint:revive
	Keepers map[string]string `pulumi:"keepers,optional"`
}

// RandomUuidOutputs is the state.
type RandomUuidOutputs struct { //nolint:revive
	RandomUuidInputs
	Result string `pulumi:"result"`
}

// Annotate names and documents the resource.
func (r *RandomUuid) Annotate(a infer.Annotator) {
	a.SetToken("index/randomUuid", "RandomUuid")
	a.Describe(&r, "A random UUID; not a secret.")
}

// Annotate documents the inputs.
func (r *RandomUuidInputs) Annotate(a infer.Annotator) { a.Describe(&r.Keepers, keepersText) }

// Create makes a UUID of version 4 (RFC 9562).
func (*RandomUuid) Create(
	_ context.Context, request infer.CreateRequest[RandomUuidInputs],
) (infer.CreateResponse[RandomUuidOutputs], error) {
	output := RandomUuidOutputs{RandomUuidInputs: request.Inputs}
	if !request.DryRun {
		b := randomBytes(16)
		b[6] = b[6]&0x0f | 0x40
		b[8] = b[8]&0x3f | 0x80
		output.Result = fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	}
	return infer.CreateResponse[RandomUuidOutputs]{ID: output.Result, Output: output}, nil
}

// known tells whether an input has a value yet: in a preview it may be another
// resource's output, and reads as zero.
func known(request infer.CheckRequest, name string) bool {
	value, given := request.NewInputs.GetOk(name)
	return given && !value.HasComputed()
}

func atLeastOne(property string, value int) []provider.CheckFailure {
	if value >= 1 {
		return nil
	}
	return []provider.CheckFailure{{Property: property, Reason: fmt.Sprintf("must be at least 1, got %d", value)}}
}
