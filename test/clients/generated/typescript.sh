curl -sSf http://127.0.0.1:8080/openapi.json -o openapi.json
openapi-generator-cli generate -i openapi.json -g typescript-fetch -o client-typescript --additional-properties=npmName=facediffuser-client
npx tsc -p client-typescript
node typescript.mjs
