curl -sSf http://127.0.0.1:8080/openapi.json -o openapi.json
openapi-generator-cli generate -i openapi.json -g go -o client-go --git-host example.org --git-user-id me --git-repo-id facediffuser --additional-properties=packageName=facediffuser
(cd generated-go && go run .)
