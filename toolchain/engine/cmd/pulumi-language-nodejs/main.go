// Command pulumi-language-nodejs runs TypeScript and JavaScript programs for the
// Pulumi engine, in place of the vendor's host of the same name: that one's source
// is no module of its own that the public proxy serves. It does what running a
// program needs and leaves the rest (code generation, templates, plugins written in
// JavaScript) unimplemented, which the engine tells the user.
//
// The program talks to the engine directly, so everything the SDK and the engine
// agree on works, resource hooks among it. Not served are the SDK's deprecated
// synchronous calls of provider functions.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/shlex"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/cmdutil"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/rpcutil"
	"github.com/pulumi/pulumi/sdk/v3/go/common/version"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// toldTheUser is the SDK's exit code for "the error was reported already".
const toldTheUser = 32

type host struct {
	pulumirpc.UnimplementedLanguageRuntimeServer
	engine string
}

func main() {
	flag.String("tracing", "", "accepted for the engine's sake")
	flag.String("root", "", "accepted for the engine's sake")
	flag.Parse()
	if flag.NArg() == 0 {
		cmdutil.Exit(errors.New("the engine's address is missing: this program is started by pulumi"))
	}
	engine := flag.Arg(0)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	gone := make(chan bool)
	go func() {
		<-ctx.Done()
		close(gone)
	}()
	if err := rpcutil.Healthcheck(ctx, engine, 5*time.Minute, cancel); err != nil {
		cmdutil.Exit(fmt.Errorf("the engine is not there: %w", err))
	}
	handle, err := rpcutil.ServeWithOptions(rpcutil.ServeOptions{
		Cancel: gone,
		Init: func(server *grpc.Server) error {
			pulumirpc.RegisterLanguageRuntimeServer(server, &host{engine: engine})
			return nil
		},
		Options: rpcutil.OpenTracingServerInterceptorOptions(nil),
	})
	if err != nil {
		cmdutil.Exit(err)
	}
	fmt.Println(handle.Port) // the engine reads it
	if err := <-handle.Done; err != nil {
		cmdutil.Exit(err)
	}
}

// Run runs the program to its end.
func (h *host) Run(ctx context.Context, request *pulumirpc.RunRequest) (*pulumirpc.RunResponse, error) {
	command, err := h.command(ctx, request)
	if err != nil {
		return &pulumirpc.RunResponse{Error: err.Error()}, nil
	}
	err = command.Run()
	var ended *exec.ExitError
	switch {
	case err == nil:
		return &pulumirpc.RunResponse{}, nil
	case errors.As(err, &ended) && ended.ExitCode() == toldTheUser:
		return &pulumirpc.RunResponse{Bail: true}, nil
	case errors.As(err, &ended):
		return &pulumirpc.RunResponse{Error: fmt.Sprintf("the program ended with %s", ended.ProcessState)}, nil
	default:
		return &pulumirpc.RunResponse{Error: fmt.Sprintf("the program could not be run: %v", err)}, nil
	}
}

func (h *host) command(ctx context.Context, request *pulumirpc.RunRequest) (*exec.Cmd, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, errors.New("node is not on PATH")
	}
	entry, err := entryOfSdk(ctx, node, request.GetPwd())
	if err != nil {
		return nil, err
	}
	options := request.GetInfo().GetOptions().AsMap()
	forNode, _ := options["nodeargs"].(string)
	arguments, err := shlex.Split(forNode)
	if err != nil {
		return nil, fmt.Errorf("nodeargs in Pulumi.yaml: %w", err)
	}
	config, err := json.Marshal(request.GetConfig())
	if err != nil {
		return nil, err
	}
	secret, err := json.Marshal(request.GetConfigSecretKeys())
	if err != nil {
		return nil, err
	}
	arguments = append(arguments, entry)
	for name, value := range map[string]string{
		"monitor": request.GetMonitorAddress(), "engine": h.engine,
		"organization": request.GetOrganization(), "project": request.GetProject(), "stack": request.GetStack(),
		"root-directory": request.GetInfo().GetRootDirectory(), "pwd": request.GetPwd(),
		"parallel": fmt.Sprint(request.GetParallel()),
	} {
		if value != "" {
			arguments = append(arguments, "--"+name, value)
		}
	}
	if request.GetDryRun() {
		arguments = append(arguments, "--dry-run")
	}
	program := request.GetProgram()
	if program == "" {
		program = "."
	}
	arguments = append(append(arguments, program), request.GetArgs()...)

	command := exec.CommandContext(ctx, node, arguments...)
	command.Dir = request.GetPwd()
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.Env = append(os.Environ(), "PULUMI_CONFIG="+string(config), "PULUMI_CONFIG_SECRET_KEYS="+string(secret))
	if typescript, set := options["typescript"].(bool); !set || typescript {
		command.Env = append(command.Env, "PULUMI_NODEJS_TYPESCRIPT=true")
	}
	return command, nil
}

// entryOfSdk asks node where the program's SDK has its entry.
func entryOfSdk(ctx context.Context, node, directory string) (string, error) {
	question := exec.CommandContext(ctx, node, "-p", `require.resolve("@pulumi/pulumi/cmd/run")`)
	question.Dir = directory
	answer, err := question.Output()
	if err != nil {
		return "", fmt.Errorf("@pulumi/pulumi is not installed for %s: run npm ci there", directory)
	}
	return strings.TrimSpace(string(answer)), nil
}

// GetRequiredPlugins names the plugins of the SDK packages that the program has installed.
func (h *host) GetRequiredPlugins(
	_ context.Context, request *pulumirpc.GetRequiredPluginsRequest,
) (*pulumirpc.GetRequiredPluginsResponse, error) {
	var found []*pulumirpc.PluginDependency
	for directory := request.GetInfo().GetProgramDirectory(); ; directory = filepath.Dir(directory) {
		manifests, _ := filepath.Glob(filepath.Join(directory, "node_modules", "@pulumi", "*", "package.json"))
		for _, file := range manifests {
			if plugin := pluginOf(file); plugin != nil {
				found = append(found, plugin)
			}
		}
		if len(manifests) > 0 || directory == filepath.Dir(directory) {
			return &pulumirpc.GetRequiredPluginsResponse{Plugins: found}, nil
		}
	}
}

func pluginOf(file string) *pulumirpc.PluginDependency {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var manifest struct {
		Version string `json:"version"`
		Pulumi  struct {
			Resource bool   `json:"resource"`
			Name     string `json:"name"`
			Version  string `json:"version"`
			Server   string `json:"server"`
		} `json:"pulumi"`
	}
	if json.Unmarshal(text, &manifest) != nil || !manifest.Pulumi.Resource {
		return nil
	}
	name, release := manifest.Pulumi.Name, manifest.Pulumi.Version
	if name == "" {
		name = filepath.Base(filepath.Dir(file))
	}
	if release == "" {
		release = manifest.Version
	}
	return &pulumirpc.PluginDependency{
		Name: name, Kind: "resource", Version: "v" + strings.TrimPrefix(release, "v"), Server: manifest.Pulumi.Server,
	}
}

// GetProgramDependencies is for lists of what is installed: npm has a better one.
func (h *host) GetProgramDependencies(
	context.Context, *pulumirpc.GetProgramDependenciesRequest,
) (*pulumirpc.GetProgramDependenciesResponse, error) {
	return &pulumirpc.GetProgramDependenciesResponse{}, nil
}

// GetPluginInfo tells the version of Pulumi that this host belongs to.
func (h *host) GetPluginInfo(context.Context, *emptypb.Empty) (*pulumirpc.PluginInfo, error) {
	return &pulumirpc.PluginInfo{Version: version.Version}, nil
}
