curl -sSf http://127.0.0.1:8080/openapi.json -o openapi.json
openapi-python-client generate --path openapi.json --output-path facediffuser_client --meta none
python openapi_python_client.py
