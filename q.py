from compsamp.psld import *; from compsamp.sampling import *; from compsamp.mixtures import ring; from compsamp.splitting import *
p=PSLD()
for nm,s in {'COBA':COBA(),'COBA t':Splitting('OBA','-t-',conjugate=True),'COBA naive ts':Splitting('OBA','-ss',conjugate=True),'CSE s':Splitting('BA','s-',conjugate=True),'ROBAt':Splitting('OBA','-t-')}.items():
    print(nm,[f"{float(sample(s,ring().denoiser(p),grid(p,N,'quadratic'),n=100,seed=3).x.abs().max()):.1e}" for N in (30,20,16,12)])
