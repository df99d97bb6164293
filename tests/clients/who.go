// Says who calls, with and without a token, over TLS. Run by tests/clients.rs as `who ADDRESS CA TOKEN`.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

	"google.golang.org/grpc/codes"

	haul "haul/client"
	"haul/client/haulv1"
)

var names = map[codes.Code]string{codes.Unauthenticated: "UNAUTHENTICATED", codes.PermissionDenied: "PERMISSION_DENIED"}

func main() {
	address, ca, token := os.Args[1], os.Args[2], os.Args[3]
	for _, options := range []haul.Options{
		{CA: ca}, {CA: ca, Token: token, Tenant: "nobody"}, {CA: ca, Token: token, Tenant: "default"},
	} {
		client, err := haul.New(address, options)
		if err != nil {
			log.Panic(err)
		}
		who, err := client.Access.WhoAmI(context.Background(), &haulv1.WhoAmIRequest{})
		var failed *haul.Error
		if errors.As(err, &failed) {
			fmt.Println(names[failed.Code], failed.Reason)
		} else if err != nil {
			log.Panic(err)
		} else {
			fmt.Println(who.Principal, "of", orDefault(who.Tenant))
		}
		client.Close()
	}
	refused := 0
	for place, options := range map[string]haul.Options{
		"example.com:4285": {Token: token}, "127.0.0.1:4285": {CA: ca}, "ftp://127.0.0.1": {},
	} {
		if _, err := haul.New(place, options); err != nil && strings.Contains(err.Error(), place) {
			refused++
		}
	}
	fmt.Println("refused", refused)
}

func orDefault(tenant string) string {
	if tenant == "" {
		return "default"
	}
	return tenant
}
