module example.org/me/edit

go 1.26

require example.org/me/facediffuser v0.0.0

replace example.org/me/facediffuser => ../client-go
